/*
 * Heaps that outlive their process, for C and C++: saved to a file, and loaded by a later process with every pointer valid.
 *
 * Link with libbrant_heap_c (.a or .so); or with libbrant_heap_malloc, which has all of this and malloc, calloc, realloc, free and their family too:
 * then malloc and new allocate from the heap that the calling thread entered. pkg-config has both: brant-heap, brant-heap-malloc.
 *
 * A heap argument is one of this process, a block argument one of that heap. Strings end with a zero byte. Calls that give an int give 0, or the
 * number of a code that `brant explain` expands: 1203 is B-1203. Calls that give a pointer give NULL where they fail; brant_heap_last_code and
 * brant_heap_error say why. Any thread may make any call, but where it is said otherwise.
 *
 * docs/heaps.md says what must not be in a heap (addresses of code, first of all).
 */
#ifndef BRANT_HEAP_H
#define BRANT_HEAP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct brant_heap brant_heap;

typedef struct {
    size_t range_bytes; /* address space, and so the most that the heap can hold; 0: 64 GiB */
    size_t at;          /* where it begins, a multiple of 2 MiB; 0: where its name leads */
    int debug;          /* find double frees, overruns and their like */
} brant_heap_options;

typedef struct {
    void *address;
    size_t bytes;
    int kind; /* 0: small, 1: large, 2: region */
} brant_heap_block;

/* A new heap. options may be NULL. */
brant_heap *brant_heap_create(const char *name, const brant_heap_options *options);
/* A heap that was created or loaded. */
brant_heap *brant_heap_find(const char *name);
/* The heaps one after the other: NULL gives the first, the last gives NULL. */
brant_heap *brant_heap_next(brant_heap *after);
const char *brant_heap_name(brant_heap *heap);
/* Nobody may use the heap any more. */
int brant_heap_destroy(brant_heap *heap);

void *brant_heap_alloc(brant_heap *heap, size_t bytes);
void *brant_heap_zalloc(brant_heap *heap, size_t bytes);
void *brant_heap_alloc_aligned(brant_heap *heap, size_t bytes, size_t align);
void *brant_heap_realloc(brant_heap *heap, void *block, size_t bytes);
int brant_heap_free(brant_heap *heap, void *block);
/* What may be used of a block; (size_t)-1 for what is none. */
size_t brant_heap_size(brant_heap *heap, void *block);

/* Whole pages, all zero; brant_heap_free gives them back. */
void *brant_heap_region(brant_heap *heap, size_t bytes);
/* Makes a part of a region read as zero, and gives its memory back. */
int brant_heap_discard(brant_heap *heap, void *region, size_t offset, size_t bytes);

/* Calls visit for each live block until it gives other than 0. No other thread may use the heap, nor may visit. */
int brant_heap_walk(brant_heap *heap, int (*visit)(void *context, const brant_heap_block *block), void *context);
/* Looks through all of the heap for damage; in debug mode at each block's guards. */
int brant_heap_check(brant_heap *heap);

/* Lets the calling thread's malloc and new allocate from a heap; NULL: from the process's own again. Gives the heap before. Needs libbrant_heap_malloc. */
brant_heap *brant_heap_enter(brant_heap *heap);

/* Names what lies at an address in a live block. kind is a number of your own, which who asks for the root must know. */
int brant_heap_set_root(brant_heap *heap, const char *name, void *address, size_t bytes, uint64_t kind);
/* bytes may be NULL. */
void *brant_heap_root(brant_heap *heap, const char *name, uint64_t kind, size_t *bytes);

/* Saves heaps together; count 0: all. No other thread may use them meanwhile. */
int brant_heap_save(const char *path, brant_heap *const *heaps, size_t count);

/* Write a new file although the image could be added to. */
#define BRANT_HEAP_SAVE_WHOLE 1
/* Save a debugged heap although blocks hold addresses of loaded modules. */
#define BRANT_HEAP_SAVE_CODE_POINTERS 2
/* Map what was read from the image afterwards, copy-on-write, as a load does: then the next save reads only what was written since. For who saves
 * again and again. What another thread writes to the heaps meanwhile is lost. */
#define BRANT_HEAP_SAVE_MAPPED 4

/* The same, with flags. */
int brant_heap_save_with(const char *path, brant_heap *const *heaps, size_t count, int flags);
/* Brings up all heaps of an image, or none. */
int brant_heap_load(const char *path);

/* Of the calling thread's last failure. */
int brant_heap_last_code(void);
const char *brant_heap_error(void);

/* The calls of 1999. Heaps are called heap-1, heap-2 ... in the order in which they are made. HeapFree and HeapDestroy give 1 where they did it. */
#ifndef BRANT_HEAP_NO_WINDOWS_NAMES
#define HEAP_ZERO_MEMORY 8UL
#define HEAP_REALLOC_IN_PLACE_ONLY 16UL

typedef struct {
    brant_heap_block block; /* begin with all zero; after each HeapWalk that gives 1, the block */
    brant_heap_block ahead[64];
    size_t count, next;
} brant_heap_entry;

brant_heap *HeapCreate(unsigned long options, size_t initial, size_t maximum);
void *HeapAlloc(brant_heap *heap, unsigned long flags, size_t bytes);
void *HeapReAlloc(brant_heap *heap, unsigned long flags, void *block, size_t bytes);
int HeapFree(brant_heap *heap, unsigned long flags, void *block);
size_t HeapSize(brant_heap *heap, unsigned long flags, void *block);
int HeapDestroy(brant_heap *heap);
int HeapWalk(brant_heap *heap, brant_heap_entry *entry);
#endif

#ifdef __cplusplus
}
#endif

#endif
