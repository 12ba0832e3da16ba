/* Times questions over a unix socket, and reads of a file, in nanoseconds: median and 99th percentile.
 *
 *     ask line SOCKET TIMES      connect, "self\n", read to the end, close
 *     ask http SOCKET TIMES      GET /v1/self, again and again over one connection
 *     ask file PATH TIMES        open, read to the end, close
 *     ask burn SOCKET MANY       that many connections that ask by HTTP without a pause, for ever
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static char text[1 << 16];

static long long now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static int compare(const void *a, const void *b) {
    long long x = *(const long long *)a, y = *(const long long *)b;
    return (x > y) - (x < y);
}

static int fail(const char *what) {
    perror(what);
    exit(1);
}

static int connected(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail(path);
    return fd;
}

static void to_end(int fd) {
    ssize_t got;
    size_t all = 0;
    while ((got = read(fd, text, sizeof text)) > 0)
        all += (size_t)got;
    if (got < 0 || all < 20)
        fail("read");
}

static void ask(int fd) {
    static const char request[] = "GET /v1/self HTTP/1.1\r\nHost: x\r\n\r\n";
    if (write(fd, request, sizeof request - 1) < 0)
        fail("write");
}

static void answer(int fd) {
    size_t size = 0;
    for (;;) {
        ssize_t got = read(fd, text + size, sizeof text - 1 - size);
        if (got <= 0)
            fail("read");
        text[size += (size_t)got] = 0;
        const char *body = strstr(text, "\r\n\r\n"), *length = strstr(text, "content-length: ");
        if (body && length && size >= (size_t)(body + 4 - text) + (size_t)atol(length + 16))
            return;
    }
}

static void burn(const char *path, int many) {
    int *fds = calloc((size_t)many, sizeof *fds);
    for (int i = 0; i < many; i++)
        ask(fds[i] = connected(path));
    puts("burning");
    fflush(stdout);
    for (;;)
        for (int i = 0; i < many; i++) {
            answer(fds[i]);
            ask(fds[i]);
        }
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    int times = atoi(argv[3]), fd = -1;
    if (argv[1][0] == 'b')
        burn(argv[2], times);
    long long *took = calloc((size_t)times, sizeof *took);
    if (argv[1][0] == 'h')
        fd = connected(argv[2]);
    for (int i = -20; i < times; i++) {
        long long began = now();
        if (argv[1][0] == 'h') {
            ask(fd);
            answer(fd);
        } else if (argv[1][0] == 'l') {
            int one = connected(argv[2]);
            if (write(one, "self\n", 5) != 5)
                fail("write");
            to_end(one);
            close(one);
        } else {
            int one = open(argv[2], O_RDONLY);
            if (one < 0)
                fail(argv[2]);
            to_end(one);
            close(one);
        }
        if (i >= 0)
            took[i] = now() - began;
    }
    qsort(took, (size_t)times, sizeof *took, compare);
    printf("%lld %lld\n", took[times / 2], took[times * 99 / 100]);
    return 0;
}
