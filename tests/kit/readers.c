/* Reads one file over and over in one of the ways that the kernel knows.
 *
 *     readers PATH WAY PIECE PROGRESS
 *
 * PROGRESS is a file of 8 bytes: the number of readings so far, while it runs. It ends when its
 * input ends, and writes to stdout what it got, each text once, as records of native integers:
 *
 *     'T' u32 length, text      'E' u32 errno (0: SIGBUS)      'N' u32 0, u64 number of readings
 *
 * It judges nothing. Built by tests/kit/readers.py; Linux, any C compiler, no library.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST (1 << 20)
#define ALIGN 4096

static const char *path;
static size_t piece;
static char *text, *last;
static ssize_t last_length = -1;
static int pipe_in, pipe_out;
static sigjmp_buf on_bus;

/* -- what was seen ------------------------------------------------------------------------- */

static uint64_t *seen;
static size_t seen_size = 1 << 12, seen_count;

static int is_new(uint64_t hash)
{
	hash |= 1;
	if (2 * seen_count >= seen_size) {
		uint64_t *old = seen;
		size_t old_size = seen_size;
		seen_size *= 2;
		seen_count = 0;
		seen = calloc(seen_size, sizeof *seen);
		for (size_t i = 0; i < old_size; i++)
			if (old[i])
				is_new(old[i]);
		free(old);
	}
	size_t i = hash % seen_size;
	for (; seen[i]; i = (i + 1) % seen_size)
		if (seen[i] == hash)
			return 0;
	seen[i] = hash;
	seen_count++;
	return 1;
}

static void put(char kind, uint32_t number)
{
	putchar(kind);
	fwrite(&number, sizeof number, 1, stdout);
}

static void note(ssize_t length)
{
	if (length < 0) {
		if (is_new(0x9e3779b97f4a7c15u * (uint64_t)(2 - length)))
			put('E', errno);
		return;
	}
	if (length == last_length && !memcmp(text, last, length))
		return;
	memcpy(last, text, length);
	last_length = length;
	uint64_t hash = 14695981039346656037u;
	for (ssize_t i = 0; i < length; i++)
		hash = (hash ^ (unsigned char)text[i]) * 1099511628211u;
	if (is_new(hash)) {
		put('T', length);
		fwrite(text, length, 1, stdout);
	}
}

/* -- ways of reading: each returns the length of what is in `text`, or -1 --------------------- */

static int opened(int flags)
{
	return open(path, O_RDONLY | O_CLOEXEC | flags);
}

static int kept(int flags)
{
	static int fd = -1;
	if (fd < 0)
		fd = opened(flags);
	return fd;
}

static ssize_t closed(int fd, ssize_t length)
{
	int number = errno;
	close(fd);
	errno = number;
	return length;
}

/* read(2) to the end */
static ssize_t to_end(int fd, size_t size)
{
	ssize_t length = 0, n;
	while ((n = read(fd, text + length, size)) > 0)
		length += n;
	return n < 0 ? -1 : length;
}

static ssize_t whole(void)
{
	int fd = opened(0);
	return fd < 0 ? -1 : closed(fd, to_end(fd, MOST / 2));
}

/* One read(2), as programs do whose buffer the file did not fill. */
static ssize_t once(void)
{
	int fd = opened(0);
	return fd < 0 ? -1 : closed(fd, read(fd, text, MOST / 2));
}

static ssize_t pieces(void)
{
	int fd = opened(0);
	return fd < 0 ? -1 : closed(fd, to_end(fd, piece));
}

static ssize_t kept_pieces(void)
{
	int fd = kept(0);
	return fd < 0 || lseek(fd, 0, SEEK_SET) < 0 ? -1 : to_end(fd, piece);
}

static ssize_t kept_open(void)
{
	int fd = kept(0);
	return fd < 0 ? -1 : pread(fd, text, MOST / 2, 0);
}

/* sendfile(2) into a pipe until nothing comes, as BusyBox cat does. */
static ssize_t sent(int fd)
{
	ssize_t length = 0, n;
	off_t offset = 0;
	while ((n = sendfile(pipe_in, fd, &offset, 65536)) > 0)
		for (ssize_t m; n > 0; n -= m, length += m)
			if ((m = read(pipe_out, text + length, n)) <= 0)
				return -1;
	return n < 0 ? -1 : length;
}

static ssize_t send_once(void)
{
	int fd = opened(0);
	return fd < 0 ? -1 : closed(fd, sent(fd));
}

static ssize_t send_kept(void)
{
	int fd = kept(0);
	return fd < 0 ? -1 : sent(fd);
}

static void bus(int number)
{
	siglongjmp(on_bus, 1);
}

/* A private mapping of as many bytes as fstat(2) tells. */
static ssize_t mapped(int fd)
{
	struct stat status;
	if (fstat(fd, &status) < 0)
		return -1;
	if (!status.st_size)
		return 0;
	char *map = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		return -1;
	ssize_t length = -1;
	if (!sigsetjmp(on_bus, 1)) {
		memcpy(text, map, status.st_size);
		length = status.st_size;
	} else
		errno = 0;
	munmap(map, status.st_size);
	return length;
}

static ssize_t map_once(void)
{
	int fd = opened(0);
	return fd < 0 ? -1 : closed(fd, mapped(fd));
}

static ssize_t map_kept(void)
{
	int fd = kept(0);
	return fd < 0 ? -1 : mapped(fd);
}

static ssize_t direct(void)
{
	int fd = opened(O_DIRECT);
	return fd < 0 ? -1 : closed(fd, to_end(fd, MOST / 2));
}

/* Reads at growing offsets until one brings nothing. */
static ssize_t by_offset(int fd, ssize_t (*at)(int, char *, size_t, off_t))
{
	ssize_t length = 0, n;
	while ((n = at(fd, text + length, MOST / 2, length)) > 0) {
		length += n;
		if (length % 512) /* the rest could not be read with O_DIRECT */
			break;
	}
	return n < 0 ? -1 : length;
}

static ssize_t aio_read(int fd, char *into, size_t size, off_t offset)
{
	static aio_context_t context;
	if (!context && syscall(SYS_io_setup, 1, &context) < 0)
		return -1;
	struct iocb request = {
		.aio_fildes = fd,
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_buf = (uintptr_t)into,
		.aio_nbytes = size,
		.aio_offset = offset,
	};
	struct iocb *requests[] = {&request};
	struct io_event event;
	if (syscall(SYS_io_submit, context, 1, requests) != 1)
		return -1;
	if (syscall(SYS_io_getevents, context, 1, 1, &event, NULL) != 1)
		return -1;
	if (event.res < 0)
		errno = -event.res;
	return event.res < 0 ? -1 : event.res;
}

static ssize_t ring_read(int fd, char *into, size_t size, off_t offset)
{
	static int ring;
	static struct io_uring_params params;
	static char *rings;
	static struct io_uring_sqe *entries;
	if (!ring) {
		int made = syscall(SYS_io_uring_setup, 2, &params);
		if (made < 0)
			return -1;
		size_t both = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
		if (params.sq_off.array + params.sq_entries * 4 > both)
			both = params.sq_off.array + params.sq_entries * 4;
		rings = mmap(NULL, both, PROT_READ | PROT_WRITE, MAP_SHARED, made, IORING_OFF_SQ_RING);
		entries = mmap(NULL, params.sq_entries * sizeof *entries, PROT_READ | PROT_WRITE,
			       MAP_SHARED, made, IORING_OFF_SQES);
		if (rings == MAP_FAILED || entries == MAP_FAILED)
			return -1;
		ring = made;
	}
	unsigned *tail = (unsigned *)(rings + params.sq_off.tail);
	unsigned *head = (unsigned *)(rings + params.cq_off.head);
	unsigned slot = *tail & *(unsigned *)(rings + params.sq_off.ring_mask);
	entries[slot] = (struct io_uring_sqe){
		.opcode = IORING_OP_READ,
		.fd = fd,
		.addr = (uintptr_t)into,
		.len = size,
		.off = offset,
	};
	((unsigned *)(rings + params.sq_off.array))[slot] = slot;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return -1;
	unsigned mask = *(unsigned *)(rings + params.cq_off.ring_mask);
	int result = ((struct io_uring_cqe *)(rings + params.cq_off.cqes))[*head & mask].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	if (result < 0)
		errno = -result;
	return result < 0 ? -1 : result;
}

static ssize_t aio(void)
{
	int fd = opened(0);
	return fd < 0 ? -1 : closed(fd, by_offset(fd, aio_read));
}

static ssize_t aio_direct(void)
{
	int fd = opened(O_DIRECT);
	return fd < 0 ? -1 : closed(fd, by_offset(fd, aio_read));
}

static ssize_t uring(void)
{
	int fd = opened(0);
	return fd < 0 ? -1 : closed(fd, by_offset(fd, ring_read));
}

static ssize_t uring_direct(void)
{
	int fd = opened(O_DIRECT);
	return fd < 0 ? -1 : closed(fd, by_offset(fd, ring_read));
}

/* stat(2) alone, which asks for attributes. */
static ssize_t status(void)
{
	struct stat found;
	return stat(path, &found) ? -1 : 0;
}

/* Drops the pages that the kernel has of the file. */
static ssize_t drop(void)
{
	int fd = kept(0);
	return fd < 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) ? -1 : 0;
}

static const struct {
	const char *name;
	ssize_t (*read)(void);
} ways[] = {
	{"whole", whole}, {"once", once}, {"pieces", pieces}, {"kept_pieces", kept_pieces},
	{"kept", kept_open}, {"send", send_once}, {"send_kept", send_kept}, {"map", map_once},
	{"map_kept", map_kept}, {"direct", direct}, {"aio", aio}, {"aio_direct", aio_direct},
	{"uring", uring}, {"uring_direct", uring_direct}, {"stat", status}, {"drop", drop},
};

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	path = argv[1];
	piece = atoi(argv[3]);
	ssize_t (*way)(void) = NULL;
	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
		if (!strcmp(ways[i].name, argv[2]))
			way = ways[i].read;
	int progress = open(argv[4], O_RDWR | O_CLOEXEC), ends[2];
	if (!way || progress < 0 || pipe2(ends, O_CLOEXEC) < 0)
		return 2;
	pipe_out = ends[0], pipe_in = ends[1];
	volatile uint64_t *count = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, progress, 0);
	text = aligned_alloc(ALIGN, 2 * MOST);
	last = malloc(2 * MOST);
	seen = calloc(seen_size, sizeof *seen);
	if (count == MAP_FAILED || !text || !last || !seen)
		return 2;
	signal(SIGBUS, bus);
	struct pollfd input = {.fd = 0, .events = POLLIN};
	uint64_t readings = 0;
	do {
		errno = 0;
		note(way());
		*count = ++readings;
	} while (poll(&input, 1, 0) == 0);
	put('N', 0);
	fwrite(&readings, sizeof readings, 1, stdout);
	return 0;
}
