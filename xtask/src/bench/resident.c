/* The program that `cargo xtask bench` measures, and its yardstick, a plain memcpy.
 *
 *   resident run BYTES FOLDER     fills memory, then runs until it is killed
 *   resident save BYTES FOLDER    fills memory, then copies it to FOLDER/copy
 *   resident load BYTES FOLDER    copies FOLDER/copy to fresh memory
 *   resident warm BYTES FOLDER    touches so much memory and ends
 *
 * The memory is private and anonymous. Of each page of 4096 bytes the first half is random, the second half
 * repeats 16 bytes that hold the page's number: all pages are touched, all differ, none is zero.
 *
 * What it has to say it appends to files of FOLDER, which it holds open for no longer than that takes; all clock
 * readings are CLOCK_REALTIME in nanoseconds, which no time namespace shifts:
 *   ready    one line when the memory is filled
 *   gaps     "BEGIN END": two readings of the clock that were further apart than GAP_NS
 *   walked   "END ok|damaged": all memory was read after the first gap that began with FOLDER/walk in place
 *   copied   "NANOSECONDS": how long the memcpy took
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define GAP_NS 500000
#define TURN_NS 100000

static unsigned char *memory;
static size_t bytes;
static char folder[3072];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wanted = PTHREAD_COND_INITIALIZER;
static int walk_wanted;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_REALTIME, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static const char *in_folder(const char *name)
{
	static __thread char path[4096];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	return path;
}

static void say(const char *name, const char *format, ...)
{
	char line[128];
	va_list arguments;
	va_start(arguments, format);
	int length = vsnprintf(line, sizeof line, format, arguments);
	va_end(arguments);
	int file = open(in_folder(name), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (file < 0 || write(file, line, length) != length)
		fail(name);
	close(file);
}

static uint64_t page_seed(uint64_t page)
{
	uint64_t seed = (page + 1) * 0x9e3779b97f4a7c15u;
	return seed ^ seed >> 29;
}

static void fill(void)
{
	for (size_t page = 0; page < bytes / PAGE; page++) {
		uint64_t *words = (uint64_t *)(memory + page * PAGE), state = page_seed(page);
		for (int i = 0; i < 256; i++) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			words[i] = state;
		}
		for (int i = 256; i < 512; i++)
			words[i] = i % 2 ? page + 1 : 0x5a5a5a5a5a5a5a5au;
	}
}

/* A sum over all words; each counts by the place of its page. */
static uint64_t sum(void)
{
	uint64_t all = 0;
	for (size_t page = 0; page < bytes / PAGE; page++) {
		const uint64_t *words = (uint64_t *)(memory + page * PAGE);
		uint64_t a = 0, b = 0, c = 0, d = 0;
		for (int i = 0; i < 512; i += 4) {
			a += words[i];
			b += words[i + 1];
			c += words[i + 2];
			d += words[i + 3];
		}
		all += (a ^ b << 1 ^ c << 2 ^ d << 3) * (2 * page + 1);
	}
	return all;
}

static unsigned char *map(size_t length, int flags, int file)
{
	void *at = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, file, 0);
	if (at == MAP_FAILED)
		fail("mmap");
	return at;
}

/* Looks at the clock, and writes to one page after the other, what it held: a running program writes. */
static void *look_at_clock(void *unused)
{
	(void)unused;
	size_t turn = 0;
	int64_t last = now();
	for (;;) {
		if (turn % 10000 == 0 && access(folder, F_OK) != 0)
			exit(1); /* The bench has gone. */
		struct timespec pause = { 0, TURN_NS };
		nanosleep(&pause, NULL);
		volatile unsigned char *byte = memory + turn++ * PAGE % bytes;
		*byte = *byte;
		int64_t time = now();
		if (time - last >= GAP_NS) {
			say("gaps", "%lld %lld\n", (long long)last, (long long)time);
			if (unlink(in_folder("walk")) == 0) {
				pthread_mutex_lock(&lock);
				walk_wanted = 1;
				pthread_cond_signal(&wanted);
				pthread_mutex_unlock(&lock);
			}
			time = now();
		}
		last = time;
	}
	return NULL;
}

static void run(void)
{
	memory = map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	fill();
	uint64_t before = sum();
	pthread_t clock;
	if (pthread_create(&clock, NULL, look_at_clock, NULL) != 0)
		fail("pthread_create");
	say("ready", "%d\n", getpid());
	for (;;) {
		pthread_mutex_lock(&lock);
		while (!walk_wanted)
			pthread_cond_wait(&wanted, &lock);
		walk_wanted = 0;
		pthread_mutex_unlock(&lock);
		int is_same = sum() == before;
		say("walked", "%lld %s\n", (long long)now(), is_same ? "ok" : "damaged");
	}
}

static unsigned char *map_copy(int flags)
{
	int file = open(in_folder("copy"), flags | O_RDWR, 0600);
	if (file < 0 || ftruncate(file, bytes) != 0)
		fail("copy");
	return map(bytes, MAP_SHARED, file);
}

static void save(void)
{
	memory = map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	fill();
	int64_t begin = now();
	memcpy(map_copy(O_CREAT | O_EXCL), memory, bytes);
	say("copied", "%lld\n", (long long)(now() - begin));
}

static void load(void)
{
	unsigned char *copy = map_copy(0);
	memory = map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memcpy(memory, copy, bytes);
	int64_t end = now();
	uint64_t is_copy = sum();
	int64_t walked = now();
	memory = copy;
	say("gaps", "%lld %lld\n", 0LL, (long long)end);
	say("walked", "%lld %s\n", (long long)walked, is_copy == sum() ? "ok" : "damaged");
}

static void warm(void)
{
	memory = map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	madvise(memory, bytes, MADV_HUGEPAGE);
	for (size_t at = 0; at < bytes; at += PAGE)
		memory[at] = 1;
}

int main(int count, char **arguments)
{
	if (count != 4 || strlen(arguments[3]) >= sizeof folder - 16)
		return 2;
	bytes = strtoull(arguments[2], NULL, 10) / PAGE * PAGE;
	strcpy(folder, arguments[3]);
	/* What a shell left open would be in the way of a checkpoint; DMTCP keeps its own from 800 on. */
	syscall(SYS_close_range, 3, 799, 0);
	/* A session of its own; its leader has no terminal. */
	setsid();
	if (strcmp(arguments[1], "run") == 0)
		run();
	else if (strcmp(arguments[1], "save") == 0)
		save();
	else if (strcmp(arguments[1], "load") == 0)
		load();
	else if (strcmp(arguments[1], "warm") == 0)
		warm();
	else
		return 2;
	return 0;
}
