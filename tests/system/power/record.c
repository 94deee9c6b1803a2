/* What a program does to the files below a folder, in the order in which it does it: preloaded, it writes a record of
   each change into a file. RECORD_BELOW: the folder; RECORD_TO: the file. Memory-mapped writes are not seen: SQLite's
   -shm, which is made anew after a crash, is the only such file here.

   record: kind (1 byte), path length, second path length, offset, data length (8 bytes each, little endian), then the
   paths and the data. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int record_fd = -1;
static const char *below;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
  const char *to = getenv("RECORD_TO");
  below = getenv("RECORD_BELOW");
  if (to && below) record_fd = syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void record(char kind, const char *path, const char *second, uint64_t offset, const void *data, uint64_t size) {
  if (record_fd < 0 || strncmp(path, below, strlen(below))) return;
  const uint64_t head[4] = {strlen(path), second ? strlen(second) : 0, offset, size};
  struct iovec parts[] = {{&kind, 1}, {(void *)head, sizeof head}, {(void *)path, head[0]}, {(void *)second, head[1]},
                          {(void *)data, size}};
  pthread_mutex_lock(&lock);
  syscall(SYS_writev, record_fd, parts, 5);
  pthread_mutex_unlock(&lock);
}

static int path_of(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length < 0) return 0;
  path[length] = 0;
  char *deleted = strstr(path, " (deleted)");
  return deleted == NULL;
}

static void absolute(int folder, const char *path, char *whole) {
  char base[PATH_MAX];
  if (path[0] == '/') {
    snprintf(whole, PATH_MAX, "%s", path);
  } else if (folder == AT_FDCWD ? getcwd(base, sizeof base) != NULL : path_of(folder, base)) {
    snprintf(whole, PATH_MAX, "%.2000s/%.2000s", base, path);
  } else {
    whole[0] = 0;
  }
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int opened(int fd, int flags, int was_there) {
  char path[PATH_MAX];
  if (fd >= 0 && (flags & (O_CREAT | O_TRUNC)) && path_of(fd, path)) {
    if (!was_there) record('c', path, NULL, 0, NULL, 0);
    else if (flags & O_TRUNC) record('t', path, NULL, 0, NULL, 0);
  }
  return fd;
}

static int there(int folder, const char *path) {
  struct stat found;
  return fstatat(folder, path, &found, 0) == 0;
}

#define OPEN(name)                                                     \
  int name(const char *path, int flags, ...) {                        \
    va_list more;                                                      \
    va_start(more, flags);                                             \
    const mode_t mode = va_arg(more, mode_t);                          \
    va_end(more);                                                      \
    const int was_there = (flags & (O_CREAT | O_TRUNC)) && there(AT_FDCWD, path); \
    return opened(NEXT(name)(path, flags, mode), flags, was_there);    \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                   \
  int name(int folder, const char *path, int flags, ...) {            \
    va_list more;                                                      \
    va_start(more, flags);                                             \
    const mode_t mode = va_arg(more, mode_t);                          \
    va_end(more);                                                      \
    const int was_there = (flags & (O_CREAT | O_TRUNC)) && there(folder, path); \
    return opened(NEXT(name)(folder, path, flags, mode), flags, was_there); \
  }
OPENAT(openat)
OPENAT(openat64)

static void written(int fd, const void *data, ssize_t size, off_t offset) {
  char path[PATH_MAX];
  if (size > 0 && path_of(fd, path)) record('w', path, NULL, (uint64_t)offset, data, (uint64_t)size);
}

ssize_t write(int fd, const void *data, size_t size) {
  const ssize_t done = syscall(SYS_write, fd, data, size);
  if (done > 0 && fd != record_fd) {
    const off_t end = lseek(fd, 0, SEEK_CUR); /* after the write it is behind it, also where it was appended */
    const int saved = errno;
    if (end >= done) written(fd, data, done, end - done);
    errno = saved;
  }
  return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  ssize_t done = 0;
  for (int part = 0; part < count; part++) {
    const ssize_t more = write(fd, parts[part].iov_base, parts[part].iov_len);
    if (more < 0) return done ? done : more;
    done += more;
    if ((size_t)more < parts[part].iov_len) break;
  }
  return done;
}

#define PWRITE(name)                                                          \
  ssize_t name(int fd, const void *data, size_t size, off_t offset) {        \
    const ssize_t done = syscall(SYS_pwrite64, fd, data, size, offset);       \
    written(fd, data, done, offset);                                          \
    return done;                                                              \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

#define FTRUNCATE(name)                                                       \
  int name(int fd, off_t size) {                                              \
    char path[PATH_MAX];                                                      \
    const int done = (int)syscall(SYS_ftruncate, fd, size);                   \
    if (!done && path_of(fd, path)) record('t', path, NULL, (uint64_t)size, NULL, 0); \
    return done;                                                              \
  }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

#define SYNC(name)                                                            \
  int name(int fd) {                                                          \
    char path[PATH_MAX];                                                      \
    if (path_of(fd, path)) record('s', path, NULL, 0, NULL, 0);               \
    return (int)syscall(SYS_##name, fd);                                      \
  }
SYNC(fsync)
SYNC(fdatasync)

static int moved(int done, int from_folder, const char *from, int to_folder, const char *to) {
  char first[PATH_MAX], second[PATH_MAX];
  if (!done) {
    absolute(from_folder, from, first);
    absolute(to_folder, to, second);
    record('r', first, second, 0, NULL, 0);
  }
  return done;
}
int rename(const char *from, const char *to) {
  return moved((int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0), AT_FDCWD, from, AT_FDCWD, to);
}
int renameat(int a, const char *from, int b, const char *to) {
  return moved((int)syscall(SYS_renameat2, a, from, b, to, 0), a, from, b, to);
}
int linkat(int a, const char *from, int b, const char *to, int flags) {
  const int done = (int)syscall(SYS_linkat, a, from, b, to, flags);
  char first[PATH_MAX], second[PATH_MAX];
  if (!done) {
    absolute(a, from, first);
    absolute(b, to, second);
    record('l', first, second, 0, NULL, 0);
  }
  return done;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

static int gone(int done, int folder, const char *path) {
  char whole[PATH_MAX];
  if (!done) {
    absolute(folder, path, whole);
    record('u', whole, NULL, 0, NULL, 0);
  }
  return done;
}
int unlinkat(int folder, const char *path, int flags) {
  return gone((int)syscall(SYS_unlinkat, folder, path, flags), folder, path);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int folder, const char *path, mode_t mode) {
  const int done = (int)syscall(SYS_mkdirat, folder, path, mode);
  char whole[PATH_MAX];
  if (!done) {
    absolute(folder, path, whole);
    record('d', whole, NULL, 0, NULL, 0);
  }
  return done;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
