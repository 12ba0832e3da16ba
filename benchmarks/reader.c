/*
 * The benchmark's reader: the first process of a container, which reads files when told to.
 *
 * It is C so that the reader costs little beside what it measures. Each line of standard input
 * is one job:
 *
 *     KEEP FRESH RATE COUNT TIME_MS DELAY_US THREADS PATH...
 *
 * KEEP 0: a read is open, read to EOF, close. KEEP 1: open once, read from offset 0 to EOF.
 * FRESH 1: who opens a file is a thread that has never read before.
 * RATE: reads a second, 0 without a pause. COUNT: reads a thread, 0 until TIME_MS is over.
 * Paths are read in turn. The answer on standard output is one line,
 *
 *     READS FAILURES SUM_NS ELAPSED_NS SAMPLES
 *
 * and SAMPLES latencies, each an unsigned 32-bit number of nanoseconds in the machine's order.
 * End of standard input ends the process, and so the container.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000ull
#define BUFFER 65536
#define MAX_PATHS 64
#define MAX_THREADS 64
/* Bounds the samples kept by a thread, not the reads: those beyond it only count and sum up. */
#define MAX_SAMPLES 400000

struct job {
	int keep, fresh, threads, paths;
	uint64_t rate, count, time_ns, delay_ns;
	char *path[MAX_PATHS];
};

struct result {
	const struct job *job;
	pthread_t thread;
	uint64_t reads, failures, sum_ns, elapsed_ns, kept, room;
	uint32_t *samples;
};

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS + (uint64_t)t.tv_nsec;
}

static void sleep_until(uint64_t ns)
{
	struct timespec t = { .tv_sec = (time_t)(ns / NS), .tv_nsec = (long)(ns % NS) };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0)
		;
}

static int read_to_end(int fd, char *buffer)
{
	ssize_t n;

	while ((n = read(fd, buffer, BUFFER)) > 0)
		;
	return n < 0 ? -1 : 0;
}

static int read_once(const char *path, char *buffer)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int failed;

	if (fd < 0)
		return -1;
	failed = read_to_end(fd, buffer);
	close(fd);
	return failed;
}

struct one {
	const char *path;
	char *buffer;
	uint64_t ns;
	int failed;
};

static void *read_timed(void *argument)
{
	struct one *one = argument;
	uint64_t before = now();

	one->failed = read_once(one->path, one->buffer);
	one->ns = now() - before;
	return NULL;
}

static void read_in_new_thread(struct one *one)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, read_timed, one))
		exit(1);
	pthread_join(thread, NULL);
}

static int read_again(int fd, char *buffer)
{
	ssize_t n;
	off_t at = 0;

	while ((n = pread(fd, buffer, BUFFER, at)) > 0)
		at += n;
	return n < 0 ? -1 : 0;
}

static void keep_sample(struct result *r, uint64_t ns)
{
	if (r->kept == r->room) {
		uint64_t room = r->room ? r->room * 2 : 1024;
		uint32_t *more;

		if (r->kept >= MAX_SAMPLES)
			return;
		more = realloc(r->samples, room * sizeof(*more));
		if (!more)
			return;
		r->samples = more;
		r->room = room;
	}
	r->samples[r->kept++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static void *work(void *argument)
{
	struct result *r = argument;
	const struct job *job = r->job;
	char *buffer = malloc(BUFFER);
	int fds[MAX_PATHS];
	uint64_t started, end, due;

	if (!buffer)
		exit(1);
	for (int i = 0; job->keep && i < job->paths; i++)
		fds[i] = open(job->path[i], O_RDONLY | O_CLOEXEC);
	started = now() + job->delay_ns;
	sleep_until(started);
	end = started + job->time_ns;
	due = started;
	for (uint64_t n = 0; job->count ? n < job->count : now() < end; n++) {
		int i = (int)(n % (uint64_t)job->paths);
		struct one one = { .path = job->path[i], .buffer = buffer };

		if (job->rate && n) {
			due += NS / job->rate;
			if (!job->count && due >= end)
				break;
			sleep_until(due);
		}
		if (job->keep) {
			uint64_t before = now();

			one.failed = read_again(fds[i], buffer);
			one.ns = now() - before;
		} else if (job->fresh) {
			read_in_new_thread(&one);
		} else {
			read_timed(&one);
		}
		r->reads++;
		r->failures += one.failed != 0;
		r->sum_ns += one.ns;
		keep_sample(r, one.ns);
	}
	r->elapsed_ns = now() - started;
	for (int i = 0; job->keep && i < job->paths; i++)
		close(fds[i]);
	free(buffer);
	return NULL;
}

static int parse(char *line, struct job *job)
{
	unsigned long long f[7];
	int used = 0;

	memset(job, 0, sizeof(*job));
	if (sscanf(line, "%llu %llu %llu %llu %llu %llu %llu%n", &f[0], &f[1], &f[2], &f[3], &f[4],
		   &f[5], &f[6], &used) != 7)
		return -1;
	job->keep = (int)f[0];
	job->fresh = (int)f[1];
	job->rate = f[2];
	job->count = f[3];
	job->time_ns = f[4] * 1000000;
	job->delay_ns = f[5] * 1000;
	job->threads = (int)f[6];
	for (char *p = strtok(line + used, " \n"); p && job->paths < MAX_PATHS;
	     p = strtok(NULL, " \n"))
		job->path[job->paths++] = p;
	return job->paths && job->threads >= 1 && job->threads <= MAX_THREADS ? 0 : -1;
}

static void run(const struct job *job)
{
	static struct result results[MAX_THREADS];
	struct result all = { 0 };
	int here = job->threads == 1 && !(job->keep && job->fresh);

	memset(results, 0, sizeof(results));
	for (int i = 0; i < job->threads; i++) {
		results[i].job = job;
		if (here)
			work(&results[i]);
		else if (pthread_create(&results[i].thread, NULL, work, &results[i]))
			exit(1);
	}
	for (int i = 0; i < job->threads; i++) {
		struct result *r = &results[i];

		if (!here)
			pthread_join(r->thread, NULL);
		all.reads += r->reads;
		all.failures += r->failures;
		all.sum_ns += r->sum_ns;
		all.kept += r->kept;
		if (r->elapsed_ns > all.elapsed_ns)
			all.elapsed_ns = r->elapsed_ns;
	}
	printf("%llu %llu %llu %llu %llu\n", (unsigned long long)all.reads,
	       (unsigned long long)all.failures, (unsigned long long)all.sum_ns,
	       (unsigned long long)all.elapsed_ns, (unsigned long long)all.kept);
	for (int i = 0; i < job->threads; i++) {
		fwrite(results[i].samples, sizeof(uint32_t), results[i].kept, stdout);
		free(results[i].samples);
	}
	fflush(stdout);
}

int main(void)
{
	char *line = NULL;
	size_t size = 0;
	struct job job;

	printf("ready\n");
	fflush(stdout);
	while (getline(&line, &size, stdin) > 0) {
		if (parse(line, &job)) {
			fprintf(stderr, "reader: not a job: %s\n", line);
			return 2;
		}
		run(&job);
	}
	return 0;
}
