// What nginx cannot say by itself: who may ask which model, whether the models are well, and what a copied request was
// answered. Files are named relative to the gateway's folder.

import crypto from 'crypto';
import fs from 'fs';

const BEARER = /^bearer (sk-([a-z0-9]{12})-[A-Za-z0-9_-]{43})$/i;
const NO_KEY = '';
const STATE_FILE = 'state.json';
const DRAINING_FILE = 'draining';
const STALE_MS = 30000;
const MOST_CAPTURED = 8 << 20;
const MOST_WAITING = 64 << 20;

// $verdict: empty to go on, else the status to refuse with. Reads the file of the one key, so that a key that was
// added or revoked counts for the next request.
function verdict(r) {
    const folders = r.variables.keys_folders;
    if (!folders) {
        return '';
    }
    const sent = BEARER.exec(r.headersIn.Authorization || '');
    // An unknown id is compared too: how long a refusal takes tells nothing.
    const key = sent && find(folders.split(':'), sent[2]) || {sha256: NO_KEY, models: []};
    const digest = crypto.createHash('sha256').update(sent ? sent[1] : '').digest('hex');
    // A time that cannot be read is over.
    if (!equal(digest, key.sha256) || key.expires && !(Date.parse(key.expires) > Date.now())) {
        return '401';
    }
    r.variables.key_id = key.id;
    r.variables.key_name = key.name;
    const model = r.variables.model;
    return model && key.models.length && key.models.indexOf(model) < 0 ? '403' : '';
}

function find(folders, id) {
    for (let i = 0; i < folders.length; i++) {
        try {
            return JSON.parse(fs.readFileSync(folders[i] + '/' + id + '.json'));
        } catch (e) {
            // Not in this folder, or no key.
        }
    }
    return null;
}

// Whether two digests are the same, in the same time wherever they differ.
function equal(found, expected) {
    let differs = found.length ^ expected.length;
    for (let i = 0; i < found.length; i++) {
        differs |= found.charCodeAt(i) ^ (i < expected.length ? expected.charCodeAt(i) : 0);
    }
    return differs === 0;
}

// What the health process has last seen; what it saw long ago is nothing.
function is_well() {
    try {
        const state = JSON.parse(fs.readFileSync(STATE_FILE));
        return state.ping && Date.now() - 1000 * state.written < STALE_MS;
    } catch (e) {
        return false;
    }
}

function is_draining() {
    try {
        fs.statSync(DRAINING_FILE);
        return true;
    } catch (e) {
        return false;
    }
}

function ping(r) {
    tell(r, is_well());
}

function ready(r) {
    tell(r, is_well() && !is_draining());
}

function tell(r, well) {
    r.headersOut['Content-Type'] = 'application/json';
    r.return(well ? 200 : 503, JSON.stringify({status: well ? 'Healthy' : 'Unhealthy'}));
}

let captured = [];
let captured_bytes = 0;

// Passes an answer on, piece by piece as it comes, and keeps a copy for the log that the mirror reads.
function capture(r, data, flags) {
    if (captured_bytes + data.length <= MOST_CAPTURED) {
        captured.push(Buffer.from(data));
    }
    captured_bytes += data.length;
    if (flags.last) {
        const whole = captured_bytes <= MOST_CAPTURED && waiting(r.variables.answers_file) <= MOST_WAITING;
        r.variables.answer = whole ? Buffer.concat(captured).toString('base64') : '';
        r.variables.answer_bytes = captured_bytes;
    }
    r.sendBuffer(data, flags);
}

// How much the mirror has not taken yet: it may have ended.
function waiting(file) {
    try {
        return fs.statSync(file).size;
    } catch (e) {
        return 0;
    }
}

export default {verdict, ping, ready, capture};
