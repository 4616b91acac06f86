// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_reader.c - a user's task that waits in a function
 *
 * Purpose: have `head` read /proc/klp_reader_wait, which has nothing to be read
 * until the module goes. It sleeps interruptibly, and goes on with its system call
 * once a signal that nobody handles has been seen to.
 *
 * Usage:
 *
 *   # insmod klp_reader.ko
 *   # cat /proc/klp_reader
 *   old
 */

#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/umh.h>
#include <linux/wait.h>

#define PROC_NAME "klp_reader"
#define PROC_WAIT_NAME "klp_reader_wait"

static DECLARE_WAIT_QUEUE_HEAD(going);
static bool gone;

static noinline __noclone int klp_reader_wait(wait_queue_head_t *queue,
					      bool *until)
{
	return wait_event_interruptible(*queue, READ_ONCE(*until));
}

static noinline __noclone const char *klp_reader_word(void)
{
	return "old";
}

static int klp_reader_wait_show(struct seq_file *m, void *v)
{
	return klp_reader_wait(&going, &gone);
}

static int klp_reader_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s\n", klp_reader_word());
	return 0;
}

static void klp_reader_stop(void)
{
	WRITE_ONCE(gone, true);
	wake_up_all(&going);
	/* Returns when nobody reads it any more. */
	remove_proc_entry(PROC_WAIT_NAME, NULL);
	remove_proc_entry(PROC_NAME, NULL);
}

static int __init klp_reader_init(void)
{
	static char *argv[3] = { "/usr/bin/head", "/proc/" PROC_WAIT_NAME, NULL };
	static char *envp[2] = { "PATH=/usr/bin", NULL };
	int err;

	if (!proc_create_single(PROC_NAME, 0444, NULL, klp_reader_show))
		return -ENOMEM;
	if (!proc_create_single(PROC_WAIT_NAME, 0444, NULL,
				klp_reader_wait_show)) {
		remove_proc_entry(PROC_NAME, NULL);
		return -ENOMEM;
	}
	err = call_usermodehelper(argv[0], argv, envp, UMH_WAIT_EXEC);
	if (err)
		klp_reader_stop();
	return err;
}

static void __exit klp_reader_exit(void)
{
	klp_reader_stop();
}

module_init(klp_reader_init);
module_exit(klp_reader_exit);
MODULE_DESCRIPTION("User's task that waits in a function");
MODULE_LICENSE("GPL");
