/*
 * Mediators for brant, in C or anything with a C ABI.
 *
 * A mediator stands before one function of a library. It has the function's own prototype with `void *icall` before the first
 * parameter, and its result:
 *
 *     int my_open(void *icall, const char *path, int flags, int mode) {
 *         int fd = (int)InnerCall(icall);
 *         ...
 *         return fd;
 *     }
 *
 * InnerCall(icall) calls the function with the arguments that its caller gave: never, once, or several times. Where the result
 * is not an integer or a pointer, InnerCallAs(type, icall) gives it, a struct too. InnerFn(icall) is a pointer to what
 * InnerCall calls, for other arguments; while that runs, calls of the wrapper's own functions are not mediated.
 *
 * errno is what the function left. A mediator's own calls of functions that its wrapper mediates go to these functions
 * themselves. A mediator may run in any thread at any time, in a signal handler too, as the function may.
 *
 * What is here links against nothing.
 */
#ifndef BRANT_MEDIATOR_H
#define BRANT_MEDIATOR_H

#ifdef __cplusplus
extern "C" {
#endif

/* A word of the processor: a long is half of one on Windows. */
#ifdef _WIN32
typedef long long brant_word;
typedef unsigned long long brant_count;
#else
typedef long brant_word;
typedef unsigned long brant_count;
#endif

/* What `icall` points to begins with the address of this. */
struct brant_link {
    void *code;
    void *entry;
};

struct brant_layer {
    struct brant_link link;
    struct brant_link *next;
    void *mediator;
    void *inner;
    brant_count index;
};

/*
 * What happens to the wrapper. An implementation that exports
 *
 *     int brant_event(const struct brant_event *event);
 *
 * is told so, on one of the program's own threads. Its result counts for BRANT_LOAD only: other than 0 it declines, and may
 * have written why to `answer`; then nothing is changed. What the pointers lead to stays as long as the library is loaded.
 * In the child of a fork the wrapper is on without another BRANT_LOAD. A program that ends tells nothing: use a destructor.
 *
 * While the wrapper is on, it is told of every library that the program loads or unloads: of a new one when its functions are
 * mediated and before its constructors run. That is within the loader, under its lock: dlopen, dlsym and the like must not be
 * called, nor functions of the new library. Other namespaces than the main one (dlmopen) are not told of.
 */
enum brant_event_kind {
    BRANT_LOAD = 1,         /* The mediators are about to stand before their functions. */
    BRANT_OFF = 2,          /* No new call reaches them; some may be under way. */
    BRANT_UNLOAD = 3,       /* No call is under way; the library is unloaded next. */
    BRANT_SAVE = 4,         /* The program is about to be checkpointed or moved: what waits in buffers should be written. */
    BRANT_LIBRARY = 5,      /* A library has been loaded: event->library. */
    BRANT_LIBRARY_GONE = 6, /* A library has been unloaded: event->library. */
};

/*
 * One `wrap` of the definition: `InnerIndex` of a call is its place. What the definition does not say is "".
 *
 * `kinds` is the signature in letters, the result first: v for void; c h i l for signed integers of 1, 2, 4 and 8 bytes, C H I L
 * for unsigned ones; f d for float and double; s for const char *, S for char *, p for other pointers; ? for anything else;
 * a dot at the end for variable arguments.
 */
struct brant_function {
    const char *name;
    const char *library;
    const char *prototype;
    const char *kinds;
};

/* A library that has come or gone. It stays only as long as the event is told. */
struct brant_library {
    const char *path;   /* as the loader knows it */
    const char *soname; /* "" where it has none, or that cannot be told */
    brant_count base;
};

struct brant_event {
    unsigned bytes; /* of this */
    unsigned kind;
    const char *wrapper;
    const char *options; /* behind the colon: brant wrap NAME:OPTIONS TARGET */
    const struct brant_function *functions;
    brant_count function_count;
    char *answer;
    brant_count answer_bytes;
    const struct brant_library *library; /* NULL with other events */
};

#define BRANT_LAYER(icall) (*(struct brant_layer *const *)(icall))

/* Calls the function as its caller did. What it returns, where that is an integer or a pointer. */
static inline brant_word InnerCall(void *icall) {
    return ((brant_word(*)(void *))BRANT_LAYER(icall)->inner)(icall);
}

/* The same for every other type. */
#define InnerCallAs(type, icall) (((type(*)(void *))BRANT_LAYER(icall)->inner)(icall))

/* What InnerCall calls. */
static inline void *InnerFn(void *icall) {
    return BRANT_LAYER(icall)->next->entry;
}

#ifdef _WIN32
/*
 * The arguments, one word each; a pointer to a struct that is returned is the first. What is written there the next InnerCall has. Floating-point
 * numbers among the first four are in registers of their own, and only read there where the function has variable arguments.
 */
static inline brant_count *InnerArgs(void *icall) {
    return ((brant_count **)icall)[1];
}
#endif

/* Which `wrap` of the definition the call is for, from 0 on: one mediator can be for many functions. */
static inline brant_count InnerIndex(void *icall) {
    return BRANT_LAYER(icall)->index;
}

/*
 * A native mediator (`wrap ... native`) has the function's own prototype, without icall, and is jumped to directly: the cheapest way.
 * It calls the function by the pointer brant_inner_NAME, which is set before the mediator can be called:
 *
 *     BRANT_NATIVE(my_malloc, void *, (size_t bytes)) {
 *         void *block = brant_inner_my_malloc(bytes);
 *         ...
 *         return block;
 *     }
 *
 * It stands before one function only. There is no guard: what it calls itself is mediated, so it must not call what it mediates
 * but by the pointer. No account is kept of its calls, so the library stays loaded, dormant, when the wrapper is taken off.
 */
#ifdef __cplusplus
#define BRANT_EXPORTED extern "C" __attribute__((visibility("default")))
#else
#define BRANT_EXPORTED extern __attribute__((visibility("default")))
#endif
#define BRANT_NATIVE(name, result, parameters)              \
    BRANT_EXPORTED result(*brant_inner_##name) parameters;  \
    result(*brant_inner_##name) parameters;                 \
    BRANT_EXPORTED result name parameters;                  \
    result name parameters

#ifdef __cplusplus
}
#endif

#endif
