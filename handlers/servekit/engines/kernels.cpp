// One decode step of a Llama for a few rows, on the CPU: one call, one OpenMP region, nothing but pointers.
//
// A step reads every weight once and does little with it, so its speed is the memory's. Each thread reads a stretch of
// its own, and a weight that is loaded serves all rows. Every dot product adds up in the same order whatever
// the number of rows and threads: a row's logits are the same bits alone and in any company.
//
// Knows nothing of prompts (the torch side reads those), of sampling, or of where weights come from.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

typedef float f32x16 __attribute__((vector_size(64), aligned(4)));
typedef uint16_t u16x16 __attribute__((vector_size(32), aligned(2)));
typedef uint32_t u32x16 __attribute__((vector_size(64), aligned(4)));
typedef int8_t s8x16 __attribute__((vector_size(16), aligned(1)));
constexpr int LANES = 16;

// Mirrors kernels.py's Layer and Model, field by field. A weight is [outputs, inputs]; its scale, bias may be null.
struct Weight { const void* data; const float* scale; const float* bias; };
struct Layer {
    const float *attention_norm, *mlp_norm;
    Weight qkv, o, gate_up, down;
    float *keys, *values;  // [slots, kv_heads, positions, head_dim]
};
struct Model {
    int32_t kind, layers, hidden, heads, kv_heads, head_dim, ffn, vocab, positions, threads;
    float eps;
    const Layer* layer;
    Weight embedding, head;
    const float *norm, *cos, *sin;  // cos, sin: [positions, head_dim / 2]
};
enum Kind { F32 = 0, BF16 = 1, S8 = 2 };

template <Kind kind> struct Of;
#if defined(__AVX2__) && !defined(__AVX512F__)
static inline f32x16 joined(__m256 low, __m256 high) {
    f32x16 v; memcpy(&v, &low, sizeof low); memcpy((char*)&v + sizeof low, &high, sizeof high); return v;
}
#endif
template <> struct Of<F32> {
    typedef float type;
    static f32x16 load(const float* p) { f32x16 v; memcpy(&v, p, sizeof v); return v; }
};
// GCC 12 widens vectors of narrow integers one number at a time, so x86 is told its instructions.
template <> struct Of<BF16> {
    typedef uint16_t type;
    static f32x16 load(const uint16_t* p) {
#if defined(__AVX512F__)
        return (f32x16)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
#elif defined(__AVX2__)
        return joined((__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16),
                      (__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(p + 8))), 16));
#else
        u16x16 v; memcpy(&v, p, sizeof v);
        return (f32x16)(__builtin_convertvector(v, u32x16) << 16);
#endif
    }
};
template <> struct Of<S8> {
    typedef int8_t type;
    static f32x16 load(const int8_t* p) {
#if defined(__AVX512F__)
        return (f32x16)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
        return joined(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p))),
                      _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))));
#else
        s8x16 v; memcpy(&v, p, sizeof v);
        return __builtin_convertvector(v, f32x16);
#endif
    }
};

static inline f32x16 load(const float* p) { return Of<F32>::load(p); }

static inline float sum(f32x16 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#endif
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
}

static inline float dot(const float* a, const float* b, int n) {
    f32x16 total = {};
    for (int i = 0; i < n; i += LANES) total += load(a + i) * load(b + i);
    return sum(total);
}

// ROWS rows of x against OUTPUTS neighbouring rows of the weight. out[r * OUTPUTS + o].
template <Kind kind, int ROWS, int OUTPUTS>
static inline void tile(const float* x, int stride, const typename Of<kind>::type* w, int inputs, float* out) {
    f32x16 total[ROWS][OUTPUTS] = {};
    for (int i = 0; i < inputs; i += LANES) {
        f32x16 weight[OUTPUTS];
        for (int o = 0; o < OUTPUTS; o++) {
            weight[o] = Of<kind>::load(w + (int64_t)o * inputs + i);
            // The next tile, into L2: more lines can be under way there than to L1, and they come while this one is summed.
            if (i % (64 / sizeof *w) == 0) __builtin_prefetch(w + (int64_t)(o + OUTPUTS) * inputs + i, 0, 2);
        }
        for (int r = 0; r < ROWS; r++) {
            f32x16 own = load(x + (int64_t)r * stride + i);
            for (int o = 0; o < OUTPUTS; o++) total[r][o] += own * weight[o];
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < OUTPUTS; o++) out[r * OUTPUTS + o] = sum(total[r][o]);
}

template <Kind kind, int ROWS>
static inline void tile_rows(const float* x, int stride, const typename Of<kind>::type* w, int inputs, int outputs,
                             float* out) {
    if (outputs == 4 && ROWS <= 4) return tile<kind, ROWS, 4>(x, stride, w, inputs, out);
    for (int o = 0; o < outputs; o++) {
        float own[ROWS];
        tile<kind, ROWS, 1>(x, stride, w + (int64_t)o * inputs, inputs, own);
        for (int r = 0; r < ROWS; r++) out[r * outputs + o] = own[r];
    }
}

constexpr int MOST_ROWS = 4, MOST_OUTPUTS = 4;

// y[r][first + o] for all rows, with scale and bias; write(row, output, value) stores.
template <Kind kind, typename Write>
static inline void linear(const float* x, int rows, int inputs, const Weight& weight, int first, int last, Write write) {
    auto data = (const typename Of<kind>::type*)weight.data;
    float own[MOST_ROWS * MOST_OUTPUTS];
    for (int begin = first; begin < last; begin += MOST_OUTPUTS) {
        int outputs = last - begin < MOST_OUTPUTS ? last - begin : MOST_OUTPUTS;
        auto w = data + (int64_t)begin * inputs;
        for (int r = 0; r < rows; r += MOST_ROWS) {
            int some = rows - r < MOST_ROWS ? rows - r : MOST_ROWS;
            const float* xr = x + (int64_t)r * inputs;
            switch (some) {
                case 1: tile_rows<kind, 1>(xr, inputs, w, inputs, outputs, own); break;
                case 2: tile_rows<kind, 2>(xr, inputs, w, inputs, outputs, own); break;
                case 3: tile_rows<kind, 3>(xr, inputs, w, inputs, outputs, own); break;
                default: tile_rows<kind, 4>(xr, inputs, w, inputs, outputs, own);
            }
            for (int i = 0; i < some; i++)
                for (int o = 0; o < outputs; o++) {
                    float value = own[i * outputs + o];
                    if (weight.scale) value *= weight.scale[begin + o];
                    if (weight.bias) value += weight.bias[begin + o];
                    write(r + i, begin + o, value);
                }
        }
    }
}

static void rms_norm(const float* x, const float* weight, int rows, int n, float eps, float* out) {
    for (int r = 0; r < rows; r++, x += n, out += n) {
        float scale = 1.0f / std::sqrt(dot(x, x, n) / n + eps);
        for (int i = 0; i < n; i++) out[i] = weight[i] * (x[i] * scale);
    }
}

static void rotate(const float* x, const float* cos, const float* sin, int half, float* out) {
    for (int i = 0; i < half; i++) {
        out[i] = x[i] * cos[i] - x[i + half] * sin[i];
        out[i + half] = x[i + half] * cos[i] + x[i] * sin[i];
    }
}

// One query head of one row over its slot's keys and the row's own; the group's first head stores key and value.
static void attend(const Model& m, const Layer& layer, const float* qkv, int head, int slot, int position,
                   float* scores, float* out) {
    const int size = m.head_dim, kv = head / (m.heads / m.kv_heads);
    const float* cos = m.cos + (int64_t)position * (size / 2);
    const float* sin = m.sin + (int64_t)position * (size / 2);
    float query[512], key[512];
    rotate(qkv + (int64_t)head * size, cos, sin, size / 2, query);
    rotate(qkv + (int64_t)(m.heads + kv) * size, cos, sin, size / 2, key);
    const float* value = qkv + (int64_t)(m.heads + m.kv_heads + kv) * size;
    int64_t base = ((int64_t)slot * m.kv_heads + kv) * m.positions * size;
    if (head % (m.heads / m.kv_heads) == 0) {
        memcpy(layer.keys + base + (int64_t)position * size, key, size * sizeof(float));
        memcpy(layer.values + base + (int64_t)position * size, value, size * sizeof(float));
    }
    const float scale = 1.0f / std::sqrt((float)size);
    float most = -INFINITY, total = 0;
    for (int t = 0; t <= position; t++) {
        // The last key comes from here: another thread may still be storing it.
        const float* k = t == position ? key : layer.keys + base + (int64_t)t * size;
        scores[t] = dot(query, k, size) * scale;
        most = scores[t] > most ? scores[t] : most;
    }
    for (int t = 0; t <= position; t++) total += scores[t] = std::exp(scores[t] - most);
    memset(out, 0, size * sizeof(float));
    for (int t = 0; t <= position; t++) {
        const float* v = t == position ? value : layer.values + base + (int64_t)t * size;
        const float share = scores[t] / total;
        for (int i = 0; i < size; i++) out[i] += share * v[i];
    }
}

template <Kind kind>
static void step(const Model& m, int rows, const int64_t* ids, const int32_t* slots, const int32_t* positions,
                 float* logits, float* scratch) {
    const int qkv_size = (m.heads + 2 * m.kv_heads) * m.head_dim, q_size = m.heads * m.head_dim;
    const int wide = q_size > m.hidden ? q_size : m.hidden;
    float* x = scratch;
    float* qkv = x + (int64_t)rows * m.hidden;
    float* mixed = qkv + (int64_t)rows * qkv_size;
    float* inner = mixed + (int64_t)rows * wide;
    float* own = inner + (int64_t)rows * m.ffn;  // of each thread: a normed copy of x, and scores
    const int64_t own_size = (int64_t)rows * m.hidden + m.positions;

    for (int r = 0; r < rows; r++) {
        auto row = (const typename Of<kind>::type*)m.embedding.data + ids[r] * m.hidden;
        const float scale = m.embedding.scale ? m.embedding.scale[ids[r]] : 1.0f;
        for (int i = 0; i < m.hidden; i += LANES) {
            f32x16 v = Of<kind>::load(row + i) * scale;
            memcpy(x + (int64_t)r * m.hidden + i, &v, sizeof v);
        }
    }
#pragma omp parallel num_threads(m.threads)
    {
        const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
        float* normed = own + thread * own_size;
        float* scores = normed + (int64_t)rows * m.hidden;
        // Whole tiles to each thread, so that a thread's stretch of the weight is one.
        auto from = [&](int n, int t) { return (int)((int64_t)(n / MOST_OUTPUTS) * t / threads) * MOST_OUTPUTS; };
        auto until = [&](int n, int t) { return t == threads - 1 ? n : from(n, t + 1); };

        for (int l = 0; l < m.layers; l++) {
            const Layer& layer = m.layer[l];
            rms_norm(x, layer.attention_norm, rows, m.hidden, m.eps, normed);
            linear<kind>(normed, rows, m.hidden, layer.qkv, from(qkv_size, thread), until(qkv_size, thread),
                         [&](int r, int o, float v) { qkv[(int64_t)r * qkv_size + o] = v; });
#pragma omp barrier
            for (int item = thread; item < rows * m.heads; item += threads) {
                int r = item / m.heads, head = item % m.heads;
                attend(m, layer, qkv + (int64_t)r * qkv_size, head, slots[r], positions[r], scores,
                       mixed + (int64_t)r * q_size + (int64_t)head * m.head_dim);
            }
#pragma omp barrier
            linear<kind>(mixed, rows, q_size, layer.o, from(m.hidden, thread), until(m.hidden, thread),
                         [&](int r, int o, float v) { x[(int64_t)r * m.hidden + o] += v; });
#pragma omp barrier
            rms_norm(x, layer.mlp_norm, rows, m.hidden, m.eps, normed);
            // gate and up stand row by row beside each other: [gate 0, up 0, gate 1, up 1, …].
            float gate[64];
            linear<kind>(normed, rows, m.hidden, layer.gate_up, 2 * from(m.ffn, thread), 2 * until(m.ffn, thread),
                         [&](int r, int o, float v) {
                             if (o % 2 == 0) gate[r] = v;
                             else inner[(int64_t)r * m.ffn + o / 2] = gate[r] / (1.0f + std::exp(-gate[r])) * v;
                         });
#pragma omp barrier
            linear<kind>(inner, rows, m.ffn, layer.down, from(m.hidden, thread), until(m.hidden, thread),
                         [&](int r, int o, float v) { x[(int64_t)r * m.hidden + o] += v; });
#pragma omp barrier
        }
        rms_norm(x, m.norm, rows, m.hidden, m.eps, normed);
        linear<kind>(normed, rows, m.hidden, m.head, from(m.vocab, thread), until(m.vocab, thread),
                     [&](int r, int o, float v) { logits[(int64_t)r * m.vocab + o] = v; });
    }
}

extern "C" int64_t servekit_scratch_floats(const Model* m, int rows) {
    const int64_t qkv_size = (m->heads + 2 * m->kv_heads) * m->head_dim, q_size = m->heads * m->head_dim;
    const int64_t wide = q_size > m->hidden ? q_size : m->hidden;
    const int64_t own = (int64_t)rows * m->hidden + m->positions;
    return rows * (m->hidden + qkv_size + wide + m->ffn) + m->threads * own;
}

// rows ≤ 64. Writes each row's key and value at positions[r] of slots[r], and logits [rows, vocab].
extern "C" void servekit_step(const Model* m, int rows, const int64_t* ids, const int32_t* slots,
                              const int32_t* positions, float* logits, float* scratch) {
    if (m->kind == F32) step<F32>(*m, rows, ids, slots, positions, logits, scratch);
    else if (m->kind == BF16) step<BF16>(*m, rows, ids, slots, positions, logits, scratch);
    else step<S8>(*m, rows, ids, slots, positions, logits, scratch);
}
