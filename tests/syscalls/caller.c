/* Makes sysinfo(2) and sched_getaffinity(2), and prints what the kernel returns.
 *
 *     caller print       one line NAME=VALUE for each thing that is tried
 *     caller loop N      N calls of each; exit 1 if one fails or changes its answer
 *     caller time N      mean and 99th percentile of each, in nanoseconds
 *     caller burn N      N threads ask without a pause, until it is killed
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

static const char *name(long result)
{
	return result >= 0 ? "ok" : strerrorname_np(errno);
}

static int count(const unsigned long *mask, long bytes)
{
	int found = 0;
	for (long i = 0; i < bytes / (long)sizeof *mask; i++)
		found += __builtin_popcountl(mask[i]);
	return found;
}

#ifdef __x86_64__
static long i386(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(a), "c"(b), "d"(c)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)result;
}
#endif

static void print(void)
{
	struct sysinfo info;
	unsigned long mask[128] = {0};
	long size;

	printf("sysinfo=%s\n", name(syscall(SYS_sysinfo, &info)));
	printf("total=%lu\n", info.totalram * info.mem_unit);
	printf("free=%lu\n", info.freeram * info.mem_unit);
	printf("uptime=%ld\n", info.uptime);
	printf("procs=%d\n", info.procs);
	size = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
	printf("affinity=%ld\n", size);
	printf("cpus=%d\n", count(mask, size));
	printf("own=%ld\n", syscall(SYS_sched_getaffinity, getpid(), sizeof mask, mask));
	printf("own_cpus=%d\n", count(mask, size));
	printf("bad_pointer=%s\n", name(syscall(SYS_sysinfo, (void *)8)));
	printf("bad_mask=%s\n", name(syscall(SYS_sched_getaffinity, 0, sizeof mask, (void *)8)));
	printf("short=%s\n", name(syscall(SYS_sched_getaffinity, 0, 4, mask)));
	char *page = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	printf("read_only=%s\n", name(syscall(SYS_sysinfo, page)));
#ifdef __x86_64__
	unsigned *low = mmap(0, 4096, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	i386(116, (long)low, 0, 0);
	printf("total32=%lu\n", (unsigned long)low[4] * low[13]);
	memset(low, 0, 1024);
	size = i386(242, 0, 1024, (long)low);
	printf("cpus32=%d\n", count((unsigned long *)low, size / 8 * 8));
#endif
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof one, &one);
	size = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
	printf("narrowed=%d\n", count(mask, size));
}

static int loop(int times)
{
	struct sysinfo first, info;
	unsigned long mask[128], want = 0;

	if (syscall(SYS_sysinfo, &first) < 0)
		return 1;
	for (int i = 0; i < times; i++) {
		if (syscall(SYS_sysinfo, &info) < 0) {
			perror("sysinfo");
			return 1;
		}
		long size = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
		if (size < 0) {
			perror("sched_getaffinity");
			return 1;
		}
		want += count(mask, size);
	}
	printf("done %lu\n", want);
	return 0;
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static int compare(const void *one, const void *other)
{
	double a = *(const double *)one, b = *(const double *)other;
	return (a > b) - (a < b);
}

static void report(const char *what, double *each, int times)
{
	double sum = 0;
	for (int i = 0; i < times; i++)
		sum += each[i];
	qsort(each, times, sizeof *each, compare);
	printf("%s %.0f %.0f\n", what, sum / times, each[times * 99 / 100]);
}

static void measure(int times)
{
	struct sysinfo info;
	unsigned long mask[128];
	double *each = malloc(times * sizeof *each);

	for (int i = 0; i < times; i++) {
		each[i] = now();
		syscall(SYS_sysinfo, &info);
		each[i] = now() - each[i];
	}
	report("sysinfo", each, times);
	for (int i = 0; i < times; i++) {
		each[i] = now();
		syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
		each[i] = now() - each[i];
	}
	report("sched_getaffinity", each, times);
}

static void *ask(void *nothing)
{
	struct sysinfo info;
	for (;;)
		syscall(SYS_sysinfo, &info);
	return nothing;
}

static void burn(int threads)
{
	pthread_t thread;
	while (threads--)
		pthread_create(&thread, 0, ask, 0);
	printf("asking\n");
	fflush(stdout);
	pause();
}

int main(int argc, char **argv)
{
	int times = argc > 2 ? atoi(argv[2]) : 1000;

	if (argc > 1 && !strcmp(argv[1], "loop"))
		return loop(times);
	if (argc > 1 && !strcmp(argv[1], "time"))
		measure(times);
	else if (argc > 1 && !strcmp(argv[1], "burn"))
		burn(times);
	else
		print();
	return 0;
}
