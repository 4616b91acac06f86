// SPDX-License-Identifier: Apache-2.0
/*
 * as_guest.c - Have bcc compile for a guest's kernel on another machine: preloaded into its Python.
 *
 * bcc finds a kernel's headers by its release, and makes a program's maps as it compiles it, for which an
 * ordinary user has no right and another kernel no use. So the release is the guest's, RELEASE, and each map
 * a descriptor that stands for it: whoever loads the program puts in one of the map's.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

int uname(struct utsname *name)
{
	if (syscall(SYS_uname, name) < 0)
		return -1;
	strncpy(name->release, RELEASE, sizeof(name->release) - 1);
	return 0;
}

/* Of libbpf; its arguments matter to nobody here. */
int bpf_map_create(void)
{
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}
