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
};

#define BRANT_LAYER(icall) (*(struct brant_layer *const *)(icall))

/* Calls the function as its caller did. What it returns, where that is an integer or a pointer. */
static inline long InnerCall(void *icall) {
    return ((long (*)(void *))BRANT_LAYER(icall)->inner)(icall);
}

/* The same for every other type. */
#define InnerCallAs(type, icall) (((type(*)(void *))BRANT_LAYER(icall)->inner)(icall))

/* What InnerCall calls. */
static inline void *InnerFn(void *icall) {
    return BRANT_LAYER(icall)->next->entry;
}

#ifdef __cplusplus
}
#endif

#endif
