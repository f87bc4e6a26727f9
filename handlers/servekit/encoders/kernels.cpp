// One forward pass of a BERT-like encoder over packed texts, on the CPU: token ids in, vectors out, one call.
//
// Texts are gathered into blocks of some 144 tokens, and a thread takes a block through all layers by itself: what lies
// between two layers stays in its cache, no thread waits for another, and padding does not exist. Where there is too
// little for that, all threads work on one block and meet between the steps. Weights lie in panels of PANEL outputs, so
// that a product reads them in a row; every number is the same sum in the same order whatever the block, the company
// or the threads, so a text's vector has the same bits alone and in any batch.
//
// Knows nothing of where weights come from, of text, or of requests.

#include <atomic>
#include <cfloat>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <new>
#include <sched.h>
#include <thread>
#include <vector>
#include <immintrin.h>

// As many rows as leave two registers for the panel and one for the token's number.
#if defined(__AVX512F__)
constexpr int LANES = 16, TILE_ROWS = 12;
#else
constexpr int LANES = 8, TILE_ROWS = 6;
#endif
constexpr int PANEL = 2 * LANES;
constexpr int BLOCK_ROWS = 144, ALONE_ROWS = 48;  // wanted in a block; fewest for each thread to have blocks of its own

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// Mirrors kernels.py's, field by field. Weights: [outputs / PANEL][inputs][PANEL] float32, or with 8 bits
// [outputs / PANEL][inputs / 4][PANEL][4] and by output a scale and the sum of its weights.
struct Linear { const void* weight; const float *scale, *bias; const int32_t* sum; };
struct Norm { const float *weight, *bias; };
struct Layer { Linear qkv, out, up, down; Norm attention, ffn; };
struct Model {
    int32_t layers, hidden, heads, ffn, int8, activation, pooling, normalize, reach;
    float eps;
    const float *words, *positions, *type;  // type: one row, may be null
    const float* distance;                  // [heads][2 * reach + 1] added to scores by key - query, may be null
    Norm embedded;
    const Layer* layer;
};
enum Activation { GELU = 0, RELU = 1 };
enum Pooling { MEAN = 0, CLS = 1, MAX = 2 };

// Not memcpy: GCC 12 takes 32 bytes through the stack then, and AVX2 is five times slower.
static inline Floats load(const float* p) { return *(const Floats*)p; }
static inline void store(float* p, Floats v) { *(Floats*)p = v; }
static inline Floats whole_numbers(const int32_t* p) {
    return __builtin_convertvector(*(const Ints*)p, Floats);
}
static inline Floats all(float value) { return value - Floats{}; }
static inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
static inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
static inline float sum(Floats v) {
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
}
static inline float largest(Floats v) {
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v[i] = v[i] > v[i + half] ? v[i] : v[i + half];
    return v[0];
}

// e^x for x ≤ 0, to 2 ulp: 2^n times a polynomial (Cephes' expf).
static inline Floats exponential(Floats x) {
    x = larger(x, all(-87.0f));
    Floats n = x * 1.44269504088896341f + 12582912.0f;  // rounds: the mantissa's last bit is now worth 1
    Ints bits = (Ints)n << 23;
    n -= 12582912.0f;
    x = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats y = ((((1.9875691500e-4f * x + 1.3981999507e-3f) * x + 8.3334519073e-3f) * x + 4.1665795894e-2f) * x
                + 1.6666665459e-1f) * x + 5.0000001201e-1f;
    y = y * x * x + x + 1.0f;
    return (Floats)((Ints)y + bits);
}

// x Φ(x), erf by the rational function that Eigen and XLA use: a few ulp.
static inline Floats gelu(Floats x) {
    Floats z = smaller(larger(x * 0.70710678118654752f, all(-4.0f)), all(4.0f)), s = z * z;
    Floats p = ((((((-2.72614225801306e-10f * s + 2.77068142495902e-08f) * s - 2.10102402082508e-06f) * s
                   - 5.69250639462346e-05f) * s - 7.34990630326855e-04f) * s - 2.95459980854025e-03f) * s
                - 1.60960333262415e-02f) * z;
    Floats q = (((-1.45660718464996e-05f * s - 2.13374055278905e-04f) * s - 1.68282697438203e-03f) * s
                - 7.37332916720468e-03f) * s - 1.42647390514189e-02f;
    return 0.5f * x * (1.0f + p / q);
}

// The next panel, on its way into L2 while this one is in use: `pace` bytes of it at each step of a product.
struct Ahead {
    const char* data;
    int64_t pace;
    void step() { __builtin_prefetch(data, 0, 2), data += pace; }
};

// ROWS rows of x [ROWS, inputs] against a panel whose rows are `step` floats apart. out: [ROWS][PANEL].
template <int ROWS>
static inline void tile(const float* x, int64_t stride, const float* panel, int64_t step, int inputs, Ahead ahead, float* out) {
    Floats total[ROWS][2] = {};
    for (int i = 0; i < inputs; i++, panel += step, ahead.step()) {
        Floats low = load(panel), high = load(panel + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            float own = x[r * stride + i];
            total[r][0] += own * low;
            total[r][1] += own * high;
        }
    }
    memcpy(out, total, sizeof total);
}

#if defined(__AVX512VNNI__)
// The same of unsigned bytes x and signed bytes in the panel: whole numbers.
template <int ROWS>
static inline void tile(const uint8_t* x, int64_t stride, const int8_t* panel, int64_t, int inputs, Ahead ahead, int32_t* out) {
    __m512i total[ROWS][2] = {};
    for (int i = 0; i < inputs; i += 4, panel += 4 * PANEL, ahead.step()) {
        __m512i low = _mm512_loadu_si512(panel), high = _mm512_loadu_si512(panel + 64);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            int32_t four;
            memcpy(&four, x + r * stride + i, 4);
            __m512i own = _mm512_set1_epi32(four);
            total[r][0] = _mm512_dpbusd_epi32(total[r][0], own, low);
            total[r][1] = _mm512_dpbusd_epi32(total[r][1], own, high);
        }
    }
    memcpy(out, total, sizeof total);
}
#endif

template <int ROWS = TILE_ROWS, typename X, typename W, typename Out>
static inline void tile_of(int rows, const X* x, int64_t stride, const W* panel, int64_t step, int inputs, Ahead ahead, Out* out) {
    if (rows == ROWS) tile<ROWS>(x, stride, panel, step, inputs, ahead, out);
    else if constexpr (ROWS > 1) tile_of<ROWS - 1>(rows, x, stride, panel, step, inputs, ahead, out);
}

// All rows in tiles of as equal heights as there are. write(row, the PANEL sums of the row).
template <typename Sum, typename X, typename W, typename Write>
static inline void tiles(const X* x, int64_t stride, int rows, const W* panel, int64_t step, int inputs, Write write) {
    const int count = (rows + TILE_ROWS - 1) / TILE_ROWS;
    const int64_t bytes = (int64_t)inputs * PANEL * sizeof(W), part = bytes / count;
    Ahead ahead = {(const char*)panel + bytes, part / (int64_t)(inputs * sizeof(W) / sizeof(float))};
    for (int first = 0, left = count; left; left--, ahead.data += part) {
        alignas(64) Sum sums[TILE_ROWS * PANEL];
        const int some = (rows - first + left - 1) / left;
        tile_of(some, x + first * stride, stride, panel, step, inputs, ahead, sums);
        for (int r = 0; r < some; r++) write(first + r, sums + r * PANEL);
        first += some;
    }
}

// This process's threads beside the caller's. They wait awake for as long as a pass is soon followed by the next step
// of it, then asleep: a server's other processes need the CPUs between passes.
class Helpers {
    static constexpr int SPINS = 4000;
    std::mutex mutex, one_at_a_time;
    std::condition_variable work_there, all_done;
    const std::function<void(int)>* work = nullptr;
    std::vector<pthread_t> helpers;
    int wanted = 0, left = 0, callers_cpu = -1;
    std::atomic<unsigned> round{0};

    void help(int own, unsigned seen) {
        for (;;) {
            for (int spins = 0; spins < SPINS && round.load(std::memory_order_acquire) == seen; spins++) _mm_pause();
            std::unique_lock<std::mutex> lock(mutex);
            work_there.wait(lock, [&] { return round.load() != seen; });
            seen = round.load();
            if (own > wanted) continue;
            const auto* now = work;
            lock.unlock();
            (*now)(own);
            lock.lock();
            if (--left == 0) all_done.notify_one();
        }
    }

    // A helper that wakes on the caller's CPU starts when the caller waits for it: 3.8 ms in place of 1.3 for a short text.
    void keep_off(int cpu) {
        if (cpu == callers_cpu) return;
        callers_cpu = cpu;
        cpu_set_t allowed;
        sched_getaffinity(0, sizeof allowed, &allowed);
        if (CPU_COUNT(&allowed) > 1) CPU_CLR(cpu, &allowed);
        for (pthread_t helper : helpers) pthread_setaffinity_np(helper, sizeof allowed, &allowed);
    }

public:
    // work(0) here, work(1) … work(threads - 1) by helpers; returns when all have.
    void together(int threads, const std::function<void(int)>& given) {
        if (threads == 1) return given(0);
        std::lock_guard<std::mutex> alone(one_at_a_time);
        {
            std::lock_guard<std::mutex> lock(mutex);
            while ((int)helpers.size() < threads - 1) {
                std::thread helper(&Helpers::help, this, (int)helpers.size() + 1, round.load());
                helpers.push_back(helper.native_handle());
                helper.detach();
                callers_cpu = -1;
            }
            keep_off(sched_getcpu());
            work = &given, wanted = left = threads - 1;
            round++;
        }
        work_there.notify_all();
        given(0);
        std::unique_lock<std::mutex> lock(mutex);
        all_done.wait(lock, [&] { return left == 0; });
    }
};

// Threads that work on one block, and where they meet.
struct Team {
    int threads;
    std::atomic<int> arrived{0}, round{0};
    void meet() {
        if (threads == 1) return;
        const int own = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(own + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round.load(std::memory_order_acquire) == own; spins++)
            spins < 2000 ? _mm_pause() : (void)sched_yield();  // somebody else may have that thread's CPU
    }
};

// A thread's share of `count` things: from(count) to from(count, +1).
struct Place {
    Team* team;
    int thread;
    int from(int count, int more = 0) const { return (int)((int64_t)count * (thread + more) / team->threads); }
};

// Rows of bytes, and what they stand for: value = scale * (byte - zero).
struct Bytes { uint8_t* data; float *scale, *zero; };

static void quantise(const float* x, int size, const Bytes& to, int row) {
    Floats low = {}, high = {};  // zero is one of the numbers that the bytes stand for
    for (int i = 0; i < size; i += LANES) low = smaller(low, load(x + i)), high = larger(high, load(x + i));
    const float least = -largest(-low), most = largest(high);
    const float scale = most > least ? (most - least) / 255.0f : 1.0f, inverse = 1.0f / scale;
    const float zero = std::nearbyint(-least * inverse);
    uint8_t* out = to.data + (int64_t)row * size;
    for (int i = 0; i < size; i += LANES) {
        // Adding 1.5 * 2^23 rounds. At the ends that may be one too far, and would be the other end's byte.
        Floats v = load(x + i) * inverse + (zero + 12582912.0f);
        Ints whole = (Ints)larger(smaller(v, all(12582912.0f + 255.0f)), all(12582912.0f)) & 0xff;
#if defined(__AVX512F__)
        _mm_storeu_si128((__m128i*)(out + i), _mm512_cvtepi32_epi8((__m512i)whole));
#else
        for (int lane = 0; lane < LANES; lane++) out[i + lane] = (uint8_t)whole[lane];
#endif
    }
    to.scale[row] = scale;
    to.zero[row] = zero;
}

// What a linear layer reads: float32, and the same as bytes where the model has 8-bit weights.
struct Input { const float* data; Bytes bytes; };

// This thread's panels of a linear layer, over all rows. write(row, output, values), bias added.
template <typename Write>
static void linear(const Model& m, const Input& x, int rows, int inputs, int outputs, const Linear& own, Place place,
                   Write write) {
    const int panels = outputs / PANEL;
    for (int p = place.from(panels); p < place.from(panels, 1); p++) {
        const int first = p * PANEL;
#if defined(__AVX512VNNI__)
        if (m.int8) {
            auto panel = (const int8_t*)own.weight + (int64_t)first * inputs;
            tiles<int32_t>(x.bytes.data, inputs, rows, panel, 0, inputs, [&](int r, const int32_t* sums) {
                const float zero = x.bytes.zero[r], scale = x.bytes.scale[r];
                for (int i = 0; i < PANEL; i += LANES) {
                    const Floats whole = whole_numbers(sums + i) - zero * whole_numbers(own.sum + first + i);
                    write(r, first + i, whole * (scale * load(own.scale + first + i)) + load(own.bias + first + i));
                }
            });
            continue;
        }
#endif
        auto panel = (const float*)own.weight + (int64_t)first * inputs;
        tiles<float>(x.data, inputs, rows, panel, PANEL, inputs, [&](int r, const float* sums) {
            for (int i = 0; i < PANEL; i += LANES) write(r, first + i, load(sums + i) + load(own.bias + first + i));
        });
    }
}

static void normalise(float* x, int size, const Norm& norm, float eps) {
    Floats total = {}, squares = {};
    for (int i = 0; i < size; i += LANES) total += load(x + i);
    const float mean = sum(total) / size;
    for (int i = 0; i < size; i += LANES) {
        Floats off = load(x + i) - mean;
        squares += off * off;
    }
    const float scale = 1.0f / std::sqrt(sum(squares) / size + eps);
    for (int i = 0; i < size; i += LANES)
        store(x + i, (load(x + i) - mean) * scale * load(norm.weight + i) + load(norm.bias + i));
}

// One head of one text: qkv, mixed are at the text's first row. keys: scratch for [size][tokens] and the scores.
static void attend(const Model& m, const float* qkv, int tokens, int head, float* scratch, float* mixed) {
    const int size = m.hidden / m.heads, wide = (tokens + PANEL - 1) / PANEL * PANEL;
    const int64_t stride = 3 * m.hidden;
    const float* query = qkv + head * size;
    float *keys = scratch, *scores = scratch + (int64_t)size * wide;
    // [wide / PANEL][size][PANEL]: a product with the keys is one with a linear layer's panels.
    for (int t = 0; t < wide; t++) {
        float* to = keys + (int64_t)(t / PANEL) * size * PANEL + t % PANEL;
        const float* from = query + m.hidden + t * stride;
        for (int i = 0; i < size; i++) to[i * PANEL] = t < tokens ? from[i] : 0.0f;
    }
    const float scale = 1.0f / std::sqrt((float)size);
    for (int first = 0; first < tokens; first += TILE_ROWS) {
        const int rows = tokens - first < TILE_ROWS ? tokens - first : TILE_ROWS;
        for (int p = 0; p < wide; p += PANEL)
            tiles<float>(query + first * stride, stride, rows, keys + (int64_t)p * size, PANEL, size,
                         [&](int r, const float* sums) {
                             for (int i = 0; i < PANEL; i += LANES) store(scores + r * wide + p + i, load(sums + i) * scale);
                         });
        float shares[TILE_ROWS];
        for (int r = 0; r < rows; r++) {
            float* own = scores + r * wide;
            if (m.distance) {
                const float* bias = m.distance + (int64_t)head * (2 * m.reach + 1) + m.reach - (first + r);
                for (int t = 0; t < tokens; t++) own[t] += bias[t];
            }
            for (int t = tokens; t < wide; t++) own[t] = -FLT_MAX;
            Floats most = load(own), total = {};
            for (int t = LANES; t < wide; t += LANES) most = larger(most, load(own + t));
            const float top = largest(most);
            for (int t = 0; t < wide; t += LANES) {
                Floats e = exponential(load(own + t) - top);
                store(own + t, e);
                total += e;  // what lies beyond the text adds 1e-38 each to a sum of at least 1: nothing
            }
            shares[r] = 1.0f / sum(total);
        }
        for (int p = 0; p < size; p += PANEL)
            tiles<float>(scores, wide, rows, query + 2 * m.hidden + p, stride, tokens, [&](int r, const float* sums) {
                float* to = mixed + (int64_t)(first + r) * m.hidden + head * size + p;
                for (int i = 0; i < PANEL; i += LANES) store(to + i, load(sums + i) * shares[r]);
            });
    }
}

static void pool(const Model& m, const float* x, int tokens, float* out) {
    Floats squares = {};
    for (int i = 0; i < m.hidden; i += LANES) {
        Floats v = load(x + i);
        if (m.pooling != CLS)
            for (int t = 1; t < tokens; t++) {
                Floats own = load(x + (int64_t)t * m.hidden + i);
                v = m.pooling == MEAN ? v + own : larger(v, own);
            }
        if (m.pooling == MEAN) v = v * (1.0f / tokens);
        store(out + i, v);
        squares += v * v;
    }
    if (!m.normalize) return;
    const float length = std::sqrt(sum(squares)), scale = 1.0f / (length > 1e-12f ? length : 1e-12f);
    for (int i = 0; i < m.hidden; i += LANES) store(out + i, load(out + i) * scale);
}

struct Texts { const int64_t* ids; const int32_t* starts; int first_position; float* out; };

// Where a block's numbers lie; grows to the largest block that came.
struct Scratch {
    char* data = nullptr;
    size_t size = 0, used = 0;
    ~Scratch() { free(data); }
    void reserve(size_t bytes) {
        used = 0;
        if (bytes <= size) return;
        free(data);
        if (posix_memalign((void**)&data, 64, bytes)) throw std::bad_alloc();
        size = bytes;
    }
    template <typename T> T* take(size_t count) {
        T* here = (T*)(data + used);
        used += (count * sizeof(T) + 63) / 64 * 64;
        return here;
    }
};

struct Block {
    float *x, *qkv, *mixed, *inner, *heads;
    Bytes hidden_bytes, inner_bytes;
    static size_t head_floats(const Model& m, int longest) {
        const size_t wide = (longest + PANEL - 1) / PANEL * PANEL;
        return (m.hidden / m.heads + TILE_ROWS) * wide;
    }
    Block(const Model& m, Scratch& scratch, size_t rows, int longest, int threads) {
        const size_t each = head_floats(m, longest) + 64;
        scratch.reserve(4 * (rows * (5 * m.hidden + m.ffn + 4) + threads * each) + rows * (m.hidden + m.ffn) + 1024);
        x = scratch.take<float>(rows * m.hidden);
        qkv = scratch.take<float>(rows * 3 * m.hidden);
        mixed = scratch.take<float>(rows * m.hidden);
        inner = scratch.take<float>(rows * m.ffn);
        heads = scratch.take<float>(threads * each);
        auto bytes = [&](int size) {
            return Bytes{scratch.take<uint8_t>(rows * size), scratch.take<float>(rows), scratch.take<float>(rows)};
        };
        hidden_bytes = bytes(m.hidden);
        inner_bytes = bytes(m.ffn);
    }
};

// Texts first to last through all layers, by every thread of a team.
static void forward(const Model& m, const Texts& texts, int first, int last, int longest, const Block& b, Place place) {
    const int start = texts.starts[first], rows = texts.starts[last] - start, hidden = m.hidden;
    Team& team = *place.team;
    const int from = place.from(rows), until = place.from(rows, 1);
    const Input x = {b.x, b.hidden_bytes}, mixed = {b.mixed, b.hidden_bytes}, inner = {b.inner, b.inner_bytes};
    auto ready = [&](const Input& input, int size, int row) {
        if (m.int8) quantise(input.data + (int64_t)row * size, size, input.bytes, row);
    };
    for (int text = first, r = from; text < last; text++)
        for (; r < until && r < texts.starts[text + 1] - start; r++) {
            const int position = texts.first_position + start + r - texts.starts[text];
            const float* word = m.words + texts.ids[start + r] * hidden;
            const float* where = m.positions + (int64_t)position * hidden;
            float* to = b.x + (int64_t)r * hidden;
            for (int i = 0; i < hidden; i += LANES)
                store(to + i, load(word + i) + load(where + i) + (m.type ? load(m.type + i) : Floats{}));
            normalise(to, hidden, m.embedded, m.eps);
            ready(x, hidden, r);
        }
    team.meet();
    float* own = b.heads + place.thread * (Block::head_floats(m, longest) + 64);
    for (int l = 0; l < m.layers; l++) {
        const Layer& layer = m.layer[l];
        linear(m, x, rows, hidden, 3 * hidden, layer.qkv, place,
               [&](int r, int o, Floats v) { store(b.qkv + (int64_t)r * 3 * hidden + o, v); });
        team.meet();
        const int items = (last - first) * m.heads;
        for (int item = place.from(items); item < place.from(items, 1); item++) {
            const int text = first + item / m.heads;
            const int64_t at = texts.starts[text] - start;
            attend(m, b.qkv + at * 3 * hidden, texts.starts[text + 1] - texts.starts[text], item % m.heads, own,
                   b.mixed + at * hidden);
        }
        team.meet();
        for (int r = from; m.int8 && r < until; r++) ready(mixed, hidden, r);
        if (m.int8) team.meet();
        auto add = [&](int r, int o, Floats v) {
            float* to = b.x + (int64_t)r * hidden + o;
            store(to, load(to) + v);
        };
        linear(m, mixed, rows, hidden, hidden, layer.out, place, add);
        team.meet();
        for (int r = from; r < until; r++) {
            normalise(b.x + (int64_t)r * hidden, hidden, layer.attention, m.eps);
            ready(x, hidden, r);
        }
        team.meet();
        linear(m, x, rows, hidden, m.ffn, layer.up, place, [&](int r, int o, Floats v) {
            store(b.inner + (int64_t)r * m.ffn + o, m.activation == RELU ? larger(v, Floats{}) : gelu(v));
        });
        team.meet();
        for (int r = from; m.int8 && r < until; r++) ready(inner, m.ffn, r);
        if (m.int8) team.meet();
        linear(m, inner, rows, m.ffn, hidden, layer.down, place, add);
        team.meet();
        for (int r = from; r < until; r++) {
            normalise(b.x + (int64_t)r * hidden, hidden, layer.ffn, m.eps);
            ready(x, hidden, r);
        }
        team.meet();
    }
    for (int text = first + place.from(last - first); text < first + place.from(last - first, 1); text++)
        pool(m, b.x + (int64_t)(texts.starts[text] - start) * hidden, texts.starts[text + 1] - texts.starts[text],
             texts.out + (int64_t)text * hidden);
}

// The first text after those that make a block from `first` on.
static int block_end(const int32_t* starts, int first, int count, int rows) {
    int last = first + 1;
    while (last < count && starts[last + 1] - starts[first] <= rows) last++;
    return last;
}

// What this library was built for, so that nobody packs weights for another.
extern "C" int servekit_panel() { return PANEL; }

// starts: [count + 1], ids' indices. out: [count, hidden]. Texts may be of any length from 1 to the model's positions.
extern "C" void servekit_encode(const Model* m, const int64_t* ids, const int32_t* starts, int count, int first_position,
                                int threads, float* out) {
    const Texts texts = {ids, starts, first_position, out};
    const int tokens = starts[count];
    int longest = 0;
    for (int t = 0; t < count; t++) longest = longest > starts[t + 1] - starts[t] ? longest : starts[t + 1] - starts[t];
    static Helpers* const helpers = new Helpers;  // never destroyed: its threads wait until the process ends
    thread_local Scratch scratch;
    if (threads > 1 && (tokens < threads * ALONE_ROWS || longest * threads > tokens + tokens / 4)) {
        Team team{threads};
        Block block(*m, scratch, tokens, longest, threads);
        helpers->together(threads, [&](int thread) { forward(*m, texts, 0, count, longest, block, {&team, thread}); });
        return;
    }
    // Blocks small enough that each thread gets as much as the others.
    const int share = (tokens + threads - 1) / threads, parts = (share + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const int rows = (share + parts - 1) / parts;
    std::atomic<int> next{0};
    helpers->together(threads, [&](int) {
        thread_local Scratch own;
        Team alone{1};
        for (int first = next.load(); first < count;) {
            const int last = block_end(starts, first, count, rows);
            if (!next.compare_exchange_weak(first, last)) continue;
            forward(*m, texts, first, last, longest, Block(*m, own, starts[last] - starts[first], longest, 1), {&alone, 0});
            first = next.load();
        }
    });
}
