// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_signalled.c - a livepatch of a function in which a user's task waits
 *
 * Purpose: change a function that the reader of klp_reader.ko leaves when the
 * kernel signals it, at the sixteenth pass of the transition, and not before.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/wait.h>

static int livepatch_reader_wait(wait_queue_head_t *queue, bool *until)
{
	return wait_event_interruptible(*queue, READ_ONCE(*until));
}

static const char *livepatch_reader_word(void)
{
	return "new";
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_reader_wait",
		.new_func = livepatch_reader_wait,
	}, {
		.old_name = "klp_reader_word",
		.new_func = livepatch_reader_word,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "klp_reader",
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_signalled_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_signalled_exit(void)
{
}

module_init(klp_good_signalled_init);
module_exit(klp_good_signalled_exit);
MODULE_DESCRIPTION("Livepatch of a function in which a user's task waits");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
