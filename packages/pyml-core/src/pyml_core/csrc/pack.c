/* pack.c: packs stored rows of blocks into panels of 16 rows.
 *
 * A panel interleaves 16 consecutive rows of a weight, so that one vector has the weights of 16 outputs for one
 * activation. f32, f16, bf16: [K][16] elements. Quantised types: a panel is a sequence of chunks of up to 256 columns,
 * and a chunk is a sequence of planes, one for each field of the stored block, in the order of block_types.def. Every
 * plane is padded to 64 bytes:
 *
 *   u16 fields (d, m, dmin)  [blocks][16 rows] u16
 *   floats (d, m)            [blocks][16 rows] f32
 *   scale bytes              [bytes][16 rows] u8
 *   code words               [words][16 rows] u32, the stored 4-byte words transposed over the rows
 *
 * Nothing is recomputed: panels keep the stored bits. Two exceptions help the kernels and are undone by unpacking: the
 * codes of 8 bits are stored unsigned (code ^ 0x80), and the high bits of q5_0 and q5_1 are spread so that bit g of
 * byte i belongs to element 4g + i. Rows past the end of the matrix are zero.
 *
 * A split q8_0 has two planes of nibbles of its unsigned codes, both in the word order of q4_0: nibbles of words 0..3
 * of a block are elements 0..15 (low) and 16..31 (high). The low nibbles of all panels come after everything else, so
 * that a coarse pass (level/screen.c) reads the first half of the matrix sequentially. If the planes alternated,
 * hardware prefetchers would load the skipped lines too.
 */
#include "formats.h"

#include <string.h>

typedef enum { U16, FLOATS, BYTES, WORDS, WORDS_XOR_80, WORDS_SPREAD, HIGH_NIBBLES, LOW_NIBBLES } field_kind;

typedef struct {
    field_kind kind;
    int offset; /* in the stored block */
    int count;  /* u16s, bytes or words */
} field;

typedef struct {
    int block, bytes, n_fields;
    field fields[4];
} block_type;

/* Indexed by type number. */
static const block_type table[] = {
#define BLOCK_TYPE(NAME, name, number, block, bytes, share, bits, zero, minimum, ...) \
    [number] = {block, bytes, sizeof((field[]){__VA_ARGS__}) / sizeof(field), {__VA_ARGS__}},
#include "block_types.def"
};

static const block_type *find(int type) {
    bool known = type >= 0 && type < (int)(sizeof table / sizeof *table) && table[type].bytes;
    return known ? &table[type] : NULL;
}

/* The fields of a block that are scales and minima are adjacent. */
pyml_block_scales pyml_scales_of(int type) {
    const block_type *t = find(type);
    pyml_block_scales scales = {.block_bytes = t->bytes, .offset = t->bytes};
    for (int i = 0; i < t->n_fields; i++) {
        if (t->fields[i].kind != U16 && t->fields[i].kind != FLOATS) continue;
        scales.bytes = t->fields[i].kind == U16 ? 2 : 4;
        if (t->fields[i].offset < scales.offset) scales.offset = t->fields[i].offset;
        scales.count += t->fields[i].count;
    }
    return scales;
}

static int element_bytes(int type) {
    switch (type) {
#define PLAIN_TYPE(NAME, name, number, bytes) \
    case number: return bytes;
#include "block_types.def"
    default: return 0;
    }
}

static int64_t plane_bytes(const field *f, int64_t blocks) {
    int64_t bytes = blocks * f->count * PANEL * (f->kind == U16 ? 2 : f->kind == BYTES ? 1 : 4);
    return (bytes + 63) / 64 * 64;
}

int pyml_chunk_bytes(int type, int64_t k) {
    const block_type *t = find(type);
    int64_t bytes = 0;
    for (int i = 0; i < t->n_fields; i++)
        if (t->fields[i].kind != LOW_NIBBLES) bytes += plane_bytes(&t->fields[i], k / t->block);
    return (int)bytes;
}

int64_t pyml_low_bytes(int type, int64_t k) { return type == TYPE_Q8_0_SPLIT ? k / 2 * PANEL : 0; }

int64_t pyml_panel_bytes(int type, int64_t k) {
    int element = element_bytes(type);
    if (element) return (k * PANEL * element + 63) / 64 * 64;
    const block_type *t = find(type);
    if (!t || k % t->block) return -1;
    int64_t bytes = k / CHUNK * pyml_chunk_bytes(type, CHUNK);
    if (k % CHUNK) bytes += pyml_chunk_bytes(type, k % CHUNK);
    return bytes;
}

int64_t pyml_stored_row_bytes(int type, int64_t k) {
    int element = element_bytes(type);
    if (element) return k * element;
    const block_type *t = find(type);
    return !t || k % t->block ? -1 : k / t->block * t->bytes;
}

/* Move bit 4g + i of a stored word to bit g of byte i. */
static uint32_t spread(uint32_t word) {
    uint32_t result = 0;
    for (int g = 0; g < 8; g++)
        for (int i = 0; i < 4; i++) result |= (word >> (4 * g + i) & 1) << (8 * i + g);
    return result;
}

/* A word of high or low nibbles: of four codes in the low halves of its bytes, and of the codes 16 elements further in
 * the high halves. */
static uint32_t nibbles_of(const uint8_t *codes, bool high) {
    uint32_t first, second;
    memcpy(&first, codes, 4), memcpy(&second, codes + 16, 4);
    first ^= 0x80808080u, second ^= 0x80808080u;
    return high ? (first >> 4 & 0x0f0f0f0fu) | (second & 0xf0f0f0f0u)
                : (first & 0x0f0f0f0fu) | (second << 4 & 0xf0f0f0f0u);
}

static void pack_field(const field *f, const block_type *t, int64_t blocks, int row, const uint8_t *stored,
                       uint8_t *plane) {
    for (int64_t b = 0; b < blocks; b++) {
        const uint8_t *source = stored + b * t->bytes + f->offset;
        for (int i = 0; i < f->count; i++) {
            int64_t at = (b * f->count + i) * PANEL + row;
            if (f->kind == U16) {
                memcpy(plane + 2 * at, source + 2 * i, 2);
            } else if (f->kind == BYTES) {
                plane[at] = source[i];
            } else {
                uint32_t word;
                memcpy(&word, source + 4 * i, 4);
                if (f->kind == WORDS_XOR_80) word ^= 0x80808080u;
                if (f->kind == WORDS_SPREAD) word = spread(word);
                if (f->kind == HIGH_NIBBLES || f->kind == LOW_NIBBLES)
                    word = nibbles_of(source + 4 * i, f->kind == HIGH_NIBBLES);
                memcpy(plane + 4 * at, &word, 4);
            }
        }
    }
}

static void pack_quantized_panel(const block_type *t, int64_t k, int64_t rows, const uint8_t *stored, uint8_t *packed,
                                 uint8_t *low) {
    int64_t row_bytes = k / t->block * t->bytes;
    for (int64_t k0 = 0; k0 < k; k0 += CHUNK) {
        int64_t blocks = (k - k0 < CHUNK ? k - k0 : CHUNK) / t->block;
        for (int i = 0; i < t->n_fields; i++) {
            uint8_t **plane = t->fields[i].kind == LOW_NIBBLES ? &low : &packed;
            for (int64_t row = 0; row < rows; row++)
                pack_field(&t->fields[i], t, blocks, (int)row, stored + row * row_bytes + k0 / t->block * t->bytes,
                           *plane);
            *plane += plane_bytes(&t->fields[i], blocks);
        }
    }
}

static void pack_plain_panel(int element, int64_t k, int64_t rows, const uint8_t *stored, uint8_t *packed) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < k; i++)
            memcpy(packed + (i * PANEL + row) * element, stored + (row * k + i) * element, (size_t)element);
}

/* Pack panels begin..end-1 of a matrix (n, k). `packed`, `low` and `stored` point to the start of the whole matrix. */
void pyml_pack_panels(int type, int64_t n, int64_t k, const uint8_t *stored, uint8_t *packed, uint8_t *low,
                      int64_t begin, int64_t end) {
    int64_t panel_bytes = pyml_panel_bytes(type, k), low_bytes = pyml_low_bytes(type, k),
            row_bytes = pyml_stored_row_bytes(type, k);
    int element = element_bytes(type);
    for (int64_t p = begin; p < end; p++) {
        int64_t rows = n - p * PANEL < PANEL ? n - p * PANEL : PANEL;
        const uint8_t *source = stored + p * PANEL * row_bytes;
        uint8_t *target = packed + p * panel_bytes;
        memset(target, 0, (size_t)panel_bytes);
        if (low_bytes) memset(low + p * low_bytes, 0, (size_t)low_bytes);
        if (element) pack_plain_panel(element, k, rows, source, target);
        else pack_quantized_panel(find(type), k, rows, source, target, low_bytes ? low + p * low_bytes : NULL);
    }
}
