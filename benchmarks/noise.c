/*
 * The noisy neighbour: load on a filesystem that is not a reader in a steady container.
 *
 *     noise namespaces THREADS PATH      a loop of new pid namespaces in which init reads PATH,
 *                                        beside a process of THREADS threads in the same cgroup
 *     noise guess PROCESSES DIRECTORY... each process opens random names below the directories
 *     noise list PROCESSES DIRECTORY...  each process lists the directories, one after the other
 *
 * It writes "ready" once all processes are there and ends at the end of standard input. Its
 * children end before it does, and with it if it is killed.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_CHILDREN 10000
#define STACK (32 * 1024)

static pid_t children[MAX_CHILDREN];
static int started;

static void fail(const char *what)
{
	perror(what);
	/* Children end with their parent. */
	exit(1);
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void guess(char **directories, int number)
{
	uint64_t state = 0x9e3779b97f4a7c15ull ^ (uint64_t)getpid() << 20;
	char path[4096];

	for (int i = 0;; i = (i + 1) % number) {
		unsigned long long a = next_random(&state), b = next_random(&state);
		int fd;

		/* As the keys of containers look: a namespace's number and a MAC. */
		snprintf(path, sizeof(path), "%s/%llu-%llx-%016llx%016llx", directories[i],
			 4026531840ull + a % 100000, a >> 32, a, b);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0)
			close(fd);
	}
}

static void list(char **directories, int number)
{
	for (int i = 0;; i = (i + 1) % number) {
		DIR *directory = opendir(directories[i]);

		if (!directory)
			continue;
		while (readdir(directory))
			;
		closedir(directory);
	}
}

static void *wait_for_ever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

/* A process of many threads that do nothing. `ready`: written to once they are there. */
static void have_threads(int number, int ready)
{
	pthread_attr_t attributes;
	pthread_t thread;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK);
	for (int i = 0; i < number; i++)
		if (pthread_create(&thread, &attributes, wait_for_ever, NULL))
			fail("pthread_create");
	if (write(ready, "", 1) != 1)
		fail("write");
	wait_for_ever(NULL);
}

/* Fork; true in the child, which ends with its parent. */
static int fork_child(void)
{
	pid_t pid = fork();

	if (pid < 0)
		fail("fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		return 1;
	}
	children[started++] = pid;
	return 0;
}

static int at_end(int timeout_ms)
{
	struct pollfd input = { .fd = 0, .events = POLLIN };

	return poll(&input, 1, timeout_ms) > 0;
}

static void read_in_namespaces(const char *path)
{
	while (!at_end(0)) {
		/* fork(2) in new namespaces: no stack of its own is needed. */
		long pid = syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, NULL);
		char buffer[4096];

		if (pid < 0)
			fail("clone");
		if (pid == 0) {
			int fd;

			prctl(PR_SET_PDEATHSIG, SIGKILL);
			fd = open(path, O_RDONLY | O_CLOEXEC);
			if (fd >= 0)
				while (read(fd, buffer, sizeof(buffer)) > 0)
					;
			_exit(fd < 0);
		}
		waitpid((pid_t)pid, NULL, 0);
	}
}

static void say_ready(void)
{
	if (write(1, "ready\n", 6) != 6)
		exit(1);
}

static void end_children(void)
{
	for (int i = 0; i < started; i++)
		kill(children[i], SIGKILL);
	for (int i = 0; i < started; i++)
		waitpid(children[i], NULL, 0);
}

int main(int argc, char **argv)
{
	int number = argc > 3 ? atoi(argv[2]) : 0;

	if (number < 1 || number > MAX_CHILDREN) {
		fprintf(stderr, "usage: noise namespaces|guess|list NUMBER PATH...\n");
		return 2;
	}
	if (!strcmp(argv[1], "namespaces")) {
		int ready[2];
		char byte;

		if (pipe(ready))
			fail("pipe");
		if (fork_child())
			have_threads(number, ready[1]);
		close(ready[1]);
		if (read(ready[0], &byte, 1) != 1)
			return 1;
		say_ready();
		read_in_namespaces(argv[3]);
	} else {
		int is_guess = !strcmp(argv[1], "guess");
		int go[2];
		char byte;

		/* They begin together: those that run already would leave no time to start others. */
		if (pipe(go))
			fail("pipe");
		while (started < number) {
			if (!fork_child())
				continue;
			close(go[1]);
			if (read(go[0], &byte, 1) == 0)
				(is_guess ? guess : list)(argv + 3, argc - 3);
		}
		close(go[1]);
		say_ready();
		at_end(-1);
	}
	end_children();
	return 0;
}
