// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_companion.c - livepatch of the functions that another livepatch changes
 *
 * Purpose: be on top of another livepatch, or under it, or in its place,
 * whichever functions it changes. "functions" names them as sysfs does, each
 * with its object: OBJECT:FUNCTION,SYMPOS with + between any two. Each is
 * replaced by a jump into the original's body, behind its call of ftrace, so
 * that it behaves as if no livepatch were there, whatever its arguments are:
 *
 *   on top	the other livepatch's changes cannot be seen, until this one is
 *		disabled
 *   under	they can be seen as ever
 *   replace=1	takes the place of all livepatches; without functions it is the
 *		empty cumulative livepatch, which restores the original code
 *
 * A task that goes on in the original's body has nothing of this livepatch on
 * its stack, and need not have: the body stays when this livepatch goes.
 *
 * Usage:
 *
 *   # insmod livepatch-sample.ko
 *   # insmod klp_companion.ko functions=vmlinux:cmdline_proc_show,1
 *   # cat /proc/cmdline			(the original's)
 *   # echo 0 > /sys/kernel/livepatch/klp_companion/enabled
 *   # cat /proc/cmdline			(livepatch-sample's)
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ftrace.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/objtool.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <asm/nospec-branch.h>

#ifndef CONFIG_X86_64
#error "klp_companion knows how to jump on x86-64 alone"
#endif

static char *functions = "";
module_param(functions, charp, 0444);
MODULE_PARM_DESC(functions, "OBJECT:FUNCTION,SYMPOS and so on");

static bool replace;
module_param(replace, bool, 0444);
MODULE_PARM_DESC(replace, "replace all livepatches that are enabled");

#define MOST 16

/* Where each function's body goes on behind its call of ftrace. */
static unsigned long bodies[MOST] __used;
static unsigned long (*location)(unsigned long ip);

#define STUB(n)								\
	asmlinkage void klp_companion_##n(void);			\
	asm(".pushsection .text, \"ax\"\n"				\
	    ".type klp_companion_" #n ", @function\n"			\
	    ".globl klp_companion_" #n "\n"				\
	    "klp_companion_" #n ":\n"					\
	    "	endbr64\n"						\
	    ANNOTATE_RETPOLINE_SAFE "\n"				\
	    "	jmp *bodies+8*" #n "(%rip)\n"				\
	    "	int3\n"						\
	    ".size klp_companion_" #n ", . - klp_companion_" #n "\n"	\
	    ".popsection\n")

STUB(0);
STUB(1);
STUB(2);
STUB(3);
STUB(4);
STUB(5);
STUB(6);
STUB(7);
STUB(8);
STUB(9);
STUB(10);
STUB(11);
STUB(12);
STUB(13);
STUB(14);
STUB(15);

static void * const stubs[MOST] = {
	klp_companion_0, klp_companion_1, klp_companion_2, klp_companion_3,
	klp_companion_4, klp_companion_5, klp_companion_6, klp_companion_7,
	klp_companion_8, klp_companion_9, klp_companion_10, klp_companion_11,
	klp_companion_12, klp_companion_13, klp_companion_14, klp_companion_15,
};

#define OBJECTS 8

static struct klp_func funcs[OBJECTS][MOST + 1];
static struct klp_object objs[OBJECTS + 1];
static unsigned int count;

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

/* The function's own code goes on after the instruction that ftrace rewrites. */
static int find_body(struct klp_func *func)
{
	unsigned long at = location((unsigned long)func->old_func);
	unsigned int i;

	if (!at) {
		pr_err("%s: not traceable\n", func->old_name);
		return -ENOENT;
	}
	for (i = 0; i < MOST; i++) {
		if (func->new_func == stubs[i])
			bodies[i] = at + MCOUNT_INSN_SIZE;
	}
	return 0;
}

/* By now the livepatch core has found the original functions. */
static int pre_patch(struct klp_object *obj)
{
	struct klp_func *func;
	int err;

	klp_for_each_func_static(obj, func) {
		err = find_body(func);
		if (err)
			return err;
	}
	return 0;
}

static struct klp_object *find_object(const char *name)
{
	unsigned int i;

	if (!strcmp(name, "vmlinux"))
		name = NULL;
	for (i = 0; i < OBJECTS; i++) {
		if (!objs[i].funcs)
			break;
		if (name ? objs[i].name && !strcmp(objs[i].name, name) : !objs[i].name)
			return &objs[i];
	}
	if (i == OBJECTS)
		return NULL;
	objs[i].name = name;
	objs[i].funcs = funcs[i];
	objs[i].callbacks.pre_patch = pre_patch;
	return &objs[i];
}

/* Adds what "word", such as vmlinux:cmdline_proc_show,1, names; cuts it up. */
static int add_function(char *word)
{
	char *object = strsep(&word, ":");
	char *name = strsep(&word, ",");
	struct klp_object *obj;
	struct klp_func *func;

	if (!name || count == MOST)
		return -EINVAL;
	obj = find_object(object);
	if (!obj)
		return -EINVAL;

	func = obj->funcs;
	while (func->old_name)
		func++;
	func->old_name = name;
	func->new_func = stubs[count++];
	return word ? kstrtoul(word, 10, &func->old_sympos) : 0;
}

/* kallsyms_lookup_name() is not exported, but a kprobe tells where it is. */
static int find_location(void)
{
	struct kprobe kp = {
		.symbol_name = "kallsyms_lookup_name",
	};
	unsigned long (*lookup)(const char *name);
	int err;

	err = register_kprobe(&kp);
	if (err)
		return err;
	lookup = (void *)kp.addr;
	unregister_kprobe(&kp);
	location = (void *)lookup("ftrace_location");
	return location ? 0 : -ENOENT;
}

static int __init klp_companion_init(void)
{
	char *rest = functions, *word;
	int err;

	err = find_location();
	if (err)
		return err;
	while ((word = strsep(&rest, "+"))) {
		err = *word ? add_function(word) : 0;
		if (err) {
			pr_err("functions: cannot take %s\n", word);
			return err;
		}
	}
	if (!objs[0].funcs)
		objs[0].funcs = funcs[0];
	patch.replace = replace;
	return klp_enable_patch(&patch);
}

static void __exit klp_companion_exit(void)
{
}

module_init(klp_companion_init);
module_exit(klp_companion_exit);
MODULE_DESCRIPTION("Livepatch of the functions that another livepatch changes");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
