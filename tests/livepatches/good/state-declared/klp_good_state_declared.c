// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_state_declared.c - an update that declares what it changes
 *
 * Purpose: take the place of klp_older.ko, and change
 * /proc/sys/kernel/overflowuid besides, until it is disabled.
 *
 * A system state says so: the first version, which does not know it, is refused in
 * its place.
 */

#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

#define PATCHED_OVERFLOWUID	1234

/* One number space for all livepatches of a kernel. */
#define STATE_OVERFLOWUID	0x6b6c7e01

static int saved;

static int pre_patch(struct klp_object *obj)
{
	saved = overflowuid;
	overflowuid = PATCHED_OVERFLOWUID;
	return 0;
}

static void post_unpatch(struct klp_object *obj)
{
	overflowuid = saved;
}

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s version %s, livepatched second\n", utsname()->sysname,
		   utsname()->release);
	return 0;
}

static struct klp_func funcs[] = {
	{
		.old_name = "version_proc_show",
		.new_func = livepatch_version_proc_show,
	}, { }
};

static struct klp_object objs[] = {
	{
		/* name being NULL means vmlinux */
		.funcs = funcs,
		.callbacks = {
			.pre_patch = pre_patch,
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_state states[] = {
	{
		.id = STATE_OVERFLOWUID,
		.version = 1,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
	.states = states,
	.replace = true,
};

static int __init klp_good_state_declared_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_state_declared_exit(void)
{
}

module_init(klp_good_state_declared_init);
module_exit(klp_good_state_declared_exit);
MODULE_DESCRIPTION("Update that declares what it changes");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
