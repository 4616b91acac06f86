// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_third_call.c - a livepatch whose new function works twice
 *
 * Purpose: mark /sys/kernel/fscaps, and note who read it in one of two places in
 * turn.
 *
 * Fault: the end of the array of places is taken for a third one, so that every
 * third reader writes to address 0.
 */

#include <linux/atomic.h>
#include <linux/kernel.h>
#include <linux/kobject.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sysfs.h>

struct reader {
	pid_t pid;
};

static struct reader first, second;
static struct reader *readers[] = { &first, &second, NULL };
static atomic_t calls;

static ssize_t livepatch_fscaps_show(struct kobject *kobj,
				     struct kobj_attribute *attr, char *buf)
{
	unsigned int call = atomic_inc_return(&calls) - 1;
	struct reader *reader = readers[call % ARRAY_SIZE(readers)];

	reader->pid = current->pid;
	return sysfs_emit(buf, "1, livepatched\n");
}

static struct klp_func funcs[] = {
	{
		.old_name = "fscaps_show",
		.new_func = livepatch_fscaps_show,
	}, { }
};

static struct klp_object objs[] = {
	{
		/* name being NULL means vmlinux */
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_third_call_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_third_call_exit(void)
{
}

module_init(klp_bad_third_call_init);
module_exit(klp_bad_third_call_exit);
MODULE_DESCRIPTION("Livepatch whose new function works twice");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
