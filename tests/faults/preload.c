/*
 * Faults for a process that it is preloaded into: another wall clock, and syncs that fail. What it
 * does is in a file that the test writes and that is mapped here, so that a change is seen by the
 * next call. Compiled by the tests (tests/faults/preload.rs); Linux with glibc only.
 *
 * It touches nothing else: the monotonic clock is the machine's, and bytes that were written and
 * not synced stay in the kernel, which a killed process does not lose.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* The file: five numbers of 8 bytes in the machine's order. preload.rs has the same. */
struct control {
    /* Seconds that the wall clock is ahead of the machine's; negative: behind. */
    _Atomic int64_t clock_s;
    /* The errno of syncs that fail; 0: none does. */
    _Atomic int64_t sync_error;
    /* Which files' syncs fail: the sum of KIND_* below. */
    _Atomic int64_t sync_kinds;
    /* Written here: syncs that were done, and that failed. */
    _Atomic int64_t synced;
    _Atomic int64_t failed;
};

enum { KIND_LOG = 1, KIND_TABLE = 2, KIND_OTHER = 4 };

static struct control *control;
static int (*next_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);

static void fail(const char *what)
{
    fprintf(stderr, "faults: %s: %s\n", what, strerror(errno));
    _exit(125);
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULTS_CONTROL");
    if (path == NULL)
        return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        fail(path);
    void *page = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        fail("mmap");
    close(fd);
    next_timedwait = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))dlsym(
        RTLD_NEXT, "pthread_cond_timedwait");
    if (next_timedwait == NULL)
        fail("dlsym");
    control = page;
}

static int64_t ahead_s(void)
{
    return control == NULL ? 0 : atomic_load(&control->clock_s);
}

/* The clocks. */

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += ahead_s();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    (void)zone;
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0)
        return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *place)
{
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return -1;
    if (place != NULL)
        *place = now.tv_sec;
    return now.tv_sec;
}

/* The kernel waits by its own clock: a time on ours would make it wait for ever, or not at all. */
int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until)
{
    if (control == NULL)
        fail("pthread_cond_timedwait before the library was loaded");
    struct timespec real = *until;
    real.tv_sec -= ahead_s();
    return next_timedwait(condition, mutex, &real);
}

/* The syncs. */

static int64_t kind_of(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 4)
        return KIND_OTHER;
    path[length] = 0;
    const char *end = path + length - 4;
    if (strcmp(end, ".log") == 0)
        return KIND_LOG;
    return strcmp(end, ".sst") == 0 ? KIND_TABLE : KIND_OTHER;
}

static int fails(int fd)
{
    int error = control == NULL ? 0 : (int)atomic_load(&control->sync_error);
    if (error == 0 || (kind_of(fd) & atomic_load(&control->sync_kinds)) == 0)
        return 0;
    atomic_fetch_add(&control->failed, 1);
    errno = error;
    return 1;
}

static int done(int result)
{
    if (result == 0 && control != NULL)
        atomic_fetch_add(&control->synced, 1);
    return result;
}

int fsync(int fd)
{
    if (fails(fd))
        return -1;
    return done((int)syscall(SYS_fsync, fd));
}

int fdatasync(int fd)
{
    if (fails(fd))
        return -1;
    return done((int)syscall(SYS_fdatasync, fd));
}
