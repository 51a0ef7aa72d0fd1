/* preloaded.c: a library to preload, which lets an allocation fail, fills fresh memory, and tells of more processors
 * than there are.
 *
 * Its functions stand before those of the C library or of a sanitizer. While it is armed it counts the calls that come
 * from the code of watched modules, and the call with the wanted number fails: it returns NULL, ENOMEM, or EAGAIN for a
 * thread. Of the interpreter's calls those count that it makes for pyml's module, and for Python code if that is
 * wanted: other extension modules are not tested. preloaded.py compiles and controls it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <link.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_RANGES = 64, FRAMES = 48 };

typedef struct {
    uintptr_t begin, end;
} range;

typedef struct {
    range ranges[MOST_RANGES];
    int count;
} code;

static code watched, standard;           /* of watched modules, and of the standard library's */
static code pyml, evaluation;            /* of pyml's module, and of the loop that evaluates Python code */
static bool interpreter, python, arrays; /* the allocations that are watched */
static atomic_long failing, counted;     /* 0: not armed */
static atomic_int fill = -1;
static atomic_int processors; /* 0: those that there are */

/* ---- the real functions */

static void *(*next_malloc)(size_t), *(*next_calloc)(size_t, size_t), *(*next_realloc)(void *, size_t);
static void *(*next_aligned_alloc)(size_t, size_t);
static void (*next_free)(void *);
static size_t (*next_usable_size)(void *);
static int (*next_create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
static int (*next_atfork)(void (*)(void), void (*)(void), void (*)(void), void *);
static int (*next_mutex_init)(pthread_mutex_t *, const pthread_mutexattr_t *);
static int (*next_cond_init)(pthread_cond_t *, const pthread_condattr_t *);
static int (*next_attr_init)(pthread_attr_t *);
static int (*next_getaffinity)(pid_t, size_t, cpu_set_t *);

/* Until the functions behind are known, which looking them up may itself need memory for. */
static _Alignas(64) uint8_t first_room[1 << 16];
static size_t first_used;

static void *first_memory(size_t size) {
    void *memory = first_room + first_used;
    first_used += (size + 63) / 64 * 64;
    if (first_used > sizeof first_room) __builtin_trap();
    return memory;
}

static bool is_first(const void *memory) {
    return (const uint8_t *)memory >= first_room && (const uint8_t *)memory < first_room + sizeof first_room;
}

static bool ready(void) {
    static bool done, looking;
    if (done) return true;
    if (looking) return false;
    looking = true;
    *(void **)&next_calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&next_malloc = dlsym(RTLD_NEXT, "malloc");
    *(void **)&next_realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&next_aligned_alloc = dlsym(RTLD_NEXT, "aligned_alloc");
    *(void **)&next_free = dlsym(RTLD_NEXT, "free");
    *(void **)&next_usable_size = dlsym(RTLD_NEXT, "malloc_usable_size");
    *(void **)&next_create = dlsym(RTLD_NEXT, "pthread_create");
    *(void **)&next_atfork = dlsym(RTLD_NEXT, "__register_atfork");
    *(void **)&next_mutex_init = dlsym(RTLD_NEXT, "pthread_mutex_init");
    *(void **)&next_cond_init = dlsym(RTLD_NEXT, "pthread_cond_init");
    *(void **)&next_attr_init = dlsym(RTLD_NEXT, "pthread_attr_init");
    *(void **)&next_getaffinity = dlsym(RTLD_NEXT, "sched_getaffinity");
    return done = true;
}

/* ---- the requests */

#define PUBLIC __attribute__((visibility("default")))

static void add_range(code *c, uintptr_t begin, uintptr_t size) {
    if (c->count < MOST_RANGES) c->ranges[c->count++] = (range){begin, begin + size};
}

static bool within(const code *c, const void *address) {
    for (int i = 0; i < c->count; i++)
        if ((uintptr_t)address >= c->ranges[i].begin && (uintptr_t)address < c->ranges[i].end) return true;
    return false;
}

typedef struct {
    const char *part;
    code *code;
    int modules, found;
} search;

static int add_module(struct dl_phdr_info *info, size_t size, void *argument) {
    (void)size;
    search *s = argument;
    bool program = s->modules++ == 0; /* the first one is the program itself, which has no name */
    if (*s->part ? !strstr(info->dlpi_name, s->part) : !program) return 0;
    s->found++;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type == PT_LOAD && segment->p_flags & PF_X)
            add_range(s->code, info->dlpi_addr + segment->p_vaddr, segment->p_memsz);
    }
    return 0;
}

static int add_modules(code *c, const char *part) {
    search s = {part, c, 0, 0};
    dl_iterate_phdr(add_module, &s);
    return s.found;
}

/* Watch the loaded modules with this in their file name; returns how many there are. */
PUBLIC int preloaded_watch(const char *part) {
    watched.count = 0, interpreter = arrays = false;
    return add_modules(&watched, part);
}

/* Watch the interpreter, for Python code too or not; `part` is in the file name of pyml's module. */
PUBLIC int preloaded_watch_interpreter(const char *part, int code_too) {
    Dl_info info;
    ElfW(Sym) *symbol = NULL;
    void *found = dlsym(RTLD_DEFAULT, "_PyEval_EvalFrameDefault"), *frames[1];
    if (!found || !dladdr1(found, &info, (void **)&symbol, RTLD_DL_SYMENT) || !symbol) return 0;
    backtrace(frames, 1); /* for the first time: it needs memory then */
    pyml.count = evaluation.count = standard.count = 0;
    add_modules(&standard, "lib-dynload");
    add_range(&evaluation, (uintptr_t)found, symbol->st_size);
    int program = preloaded_watch(""), library = add_modules(&watched, "libpython");
    interpreter = true, python = code_too;
    return add_modules(&pyml, part) ? program + library : 0;
}

/* From now on count calls; the call with this number fails, the first one being 1. */
PUBLIC void preloaded_arm(long number) {
    atomic_store(&counted, 0);
    atomic_store(&failing, number);
}

/* No call fails any more; returns how many there were. */
PUBLIC long preloaded_disarm(void) {
    atomic_store(&failing, 0);
    return atomic_load(&counted);
}

/* Fill fresh memory with this byte; -1: leave it. */
PUBLIC void preloaded_fill(int byte) { atomic_store(&fill, byte); }

/* Report this number of processors; 0: the real one. */
PUBLIC void preloaded_processors(int count) { atomic_store(&processors, count); }

/* Whether the interpreter, which is the caller, was last called by pyml's module or by Python code. */
static bool asked_for(void) {
    void *frames[FRAMES];
    int count = backtrace(frames, FRAMES), i = 0;
    while (i < count && !within(&watched, frames[i])) i++; /* this library's own */
    for (; i < count; i++) {
        if (within(&pyml, frames[i])) return true;
        if (within(&evaluation, frames[i])) return python;
        if (!within(&watched, frames[i]) && !within(&standard, frames[i])) return false;
    }
    return false;
}

static bool is_its_turn(void) {
    long number = atomic_load_explicit(&failing, memory_order_relaxed);
    if (!number || atomic_fetch_add(&counted, 1) + 1 != number) return false;
    if (getenv("PYML_PRELOADED_TELLS")) { /* who it is that gets nothing */
        void *frames[FRAMES];
        atomic_store(&failing, 0);
        backtrace_symbols_fd(frames, backtrace(frames, FRAMES), 2);
    }
    return true;
}

static bool fails(const void *from) {
    static _Thread_local bool inside;
    if (!atomic_load_explicit(&failing, memory_order_relaxed) || inside || !within(&watched, from)) return false;
    inside = true;
    bool counts = !interpreter || asked_for();
    inside = false;
    return counts && is_its_turn();
}

#define FAILS() fails(__builtin_return_address(0))

static void *filled(void *memory, size_t from, size_t to) {
    int byte = atomic_load_explicit(&fill, memory_order_relaxed);
    if (memory && byte >= 0 && to > from) memset((uint8_t *)memory + from, byte, to - from);
    return memory;
}

static void *none(void) {
    errno = ENOMEM;
    return NULL;
}

/* ---- the functions */

PUBLIC void *malloc(size_t size) {
    if (!ready()) return first_memory(size);
    return FAILS() ? none() : filled(next_malloc(size), 0, size);
}

PUBLIC void *calloc(size_t count, size_t size) {
    if (!ready()) return first_memory(count * size);
    return FAILS() ? none() : next_calloc(count, size);
}

PUBLIC void *realloc(void *memory, size_t size) {
    if (!ready() || is_first(memory)) __builtin_trap();
    if (FAILS()) return none();
    size_t before = memory ? next_usable_size(memory) : 0;
    return filled(next_realloc(memory, size), before, size);
}

PUBLIC void *aligned_alloc(size_t alignment, size_t size) {
    if (!ready()) return first_memory(size);
    return FAILS() ? none() : filled(next_aligned_alloc(alignment, size), 0, size);
}

PUBLIC void free(void *memory) {
    if (!is_first(memory) && ready()) next_free(memory);
}

PUBLIC int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
    ready();
    return FAILS() ? EAGAIN : next_create(thread, attributes, start, argument);
}

PUBLIC int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *module) {
    ready();
    return FAILS() ? ENOMEM : next_atfork(prepare, parent, child, module);
}

PUBLIC int pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes) {
    ready();
    return FAILS() ? ENOMEM : next_mutex_init(mutex, attributes);
}

PUBLIC int pthread_cond_init(pthread_cond_t *condition, const pthread_condattr_t *attributes) {
    ready();
    return FAILS() ? ENOMEM : next_cond_init(condition, attributes);
}

PUBLIC int pthread_attr_init(pthread_attr_t *attributes) {
    ready();
    return FAILS() ? ENOMEM : next_attr_init(attributes);
}

PUBLIC int sched_getaffinity(pid_t process, size_t size, cpu_set_t *set) {
    int count = atomic_load(&processors);
    if (!ready() || !count) return next_getaffinity(process, size, set);
    memset(set, 0, size);
    for (int i = 0; i < count; i++) CPU_SET_S((size_t)i, size, set);
    return 0;
}

/* ---- the data of NumPy's arrays: NumPy's other allocations are left alone, because not all of it survives failures */

typedef struct {
    char name[127];
    uint8_t version;
    void *context;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *, size_t);
} array_handler; /* PyDataMem_Handler */

static void *array_malloc(void *context, size_t size) {
    (void)context;
    return arrays && is_its_turn() ? NULL : malloc(size ? size : 1);
}

static void *array_calloc(void *context, size_t count, size_t size) {
    (void)context;
    return arrays && is_its_turn() ? NULL : calloc(count ? count : 1, size ? size : 1);
}

static void *array_realloc(void *context, void *memory, size_t size) {
    (void)context;
    return arrays && is_its_turn() ? NULL : realloc(memory, size ? size : 1);
}

static void array_free(void *context, void *memory, size_t size) {
    (void)context, (void)size;
    free(memory);
}

/* The capsule that PyDataMem_SetHandler takes. */
PUBLIC void *preloaded_arrays(void) {
    static array_handler handler = {"preloaded", 1, NULL, array_malloc, array_calloc, array_realloc, array_free};
    return &handler;
}

PUBLIC void preloaded_watch_arrays(void) { watched.count = 0, interpreter = false, arrays = true; }
