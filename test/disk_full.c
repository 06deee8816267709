/*
 * disk_full.c
 *		A disk that is full on command, for the tests: preloaded into a server,
 *		it makes files longer only while the file that DISK_FULL names, with
 *		the suffix ".data" or ".wal", does not exist.
 *
 * What exists may be overwritten, as on a real disk. The error is the kernel's.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_FILES 4096

/* What an open file belongs to: "data", "wal", or NULL. */
static const char *kinds[MAX_FILES];

static void
note_file(int fd, const char *path)
{
	if (fd >= 0 && fd < MAX_FILES)
		kinds[fd] = strstr(path, "pg_wal/") ? "wal" : strstr(path, "base/") ? "data" : NULL;
}

static int
is_full(int fd, off_t end)
{
	char		flag[1024];
	struct stat file;
	const char *prefix = getenv("DISK_FULL");

	if (prefix == NULL || fd < 0 || fd >= MAX_FILES || kinds[fd] == NULL)
		return 0;
	snprintf(flag, sizeof(flag), "%s.%s", prefix, kinds[fd]);
	return access(flag, F_OK) == 0 && fstat(fd, &file) == 0 && end > file.st_size;
}

static off_t
length_of(const struct iovec *parts, int n)
{
	off_t		sum = 0;

	for (int i = 0; i < n; i++)
		sum += parts[i].iov_len;
	return sum;
}

#define ORIGINAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

#define OPEN(name) \
int name(const char *path, int flags, ...) \
{ \
	va_list		arguments; \
	mode_t		mode = 0; \
	int			fd; \
	va_start(arguments, flags); \
	if (flags & (O_CREAT | O_TMPFILE)) \
		mode = va_arg(arguments, mode_t); \
	va_end(arguments); \
	fd = ORIGINAL(name)(path, flags, mode); \
	note_file(fd, path); \
	return fd; \
}

#define FAIL_IF_FULL(fd, end) \
	do { \
		if (is_full(fd, end)) \
		{ \
			errno = ENOSPC; \
			return -1; \
		} \
	} while (0)

#define PWRITE(name) \
ssize_t name(int fd, const void *data, size_t length, off_t offset) \
{ \
	FAIL_IF_FULL(fd, offset + length); \
	return ORIGINAL(name)(fd, data, length, offset); \
}

#define PWRITEV(name) \
ssize_t name(int fd, const struct iovec *parts, int n, off_t offset) \
{ \
	FAIL_IF_FULL(fd, offset + length_of(parts, n)); \
	return ORIGINAL(name)(fd, parts, n, offset); \
}

/* These return the error. */
#define FALLOCATE(name) \
int name(int fd, off_t offset, off_t length) \
{ \
	return is_full(fd, offset + length) ? ENOSPC : ORIGINAL(name)(fd, offset, length); \
}

OPEN(open)
OPEN(open64)
PWRITE(pwrite)
PWRITE(pwrite64)
PWRITEV(pwritev)
PWRITEV(pwritev64)
FALLOCATE(posix_fallocate)
FALLOCATE(posix_fallocate64)
