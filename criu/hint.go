package criu

import "strings"

// hints are known causes, by a part of what CRIU logs, and what to do.
var hints = []struct{ part, hint string }{
	{"Can't get 1:34 opt", "this CRIU is too old for this kernel: 4.2 or newer is needed from Linux 6.16 on"},
	{"Unexpected rt vDSO area bounds", "this CRIU is too old for this kernel: 4.1 or newer is needed from Linux 6.13 on"},
	{"IPPROTO_UDPLITE", "this CRIU is too old for this kernel: 4.3 or newer is needed from Linux 7.1 on"},
	{"Unsupported proto 262", "the program uses MPTCP, as Go programs do by default: set net.mptcp.enabled=0 in the pod's network namespace, or GODEBUG=multipathtcp=0"},
	{"Connected TCP socket, consider using", "the tree has open TCP connections: dump it with tcp_established"},
	{"Can't dump corked dgram socket", "a UDP socket is corked: wait until it is not"},
	{"Can't dump half of stream unix connection", "a unix socket leads to a process outside the pod, such as dbus, syslog or docker.sock: close it first"},
	{"External socket is used", "a unix socket leads outside the pod: close it first"},
	{"Can't dump name-less external socket", "a unix socket leads outside the pod: close it first"},
	{"The socket has data to read", "a netlink socket holds a message that was not read: try again"},
	{"[io_uring]", "io_uring can't be dumped: run the program without it"},
	{"Can't dump file", "the process has a file open of a kind that CRIU can't dump"},
	{"Can't dump ghost file", "a deleted file is still open and larger than the ghost limit: raise ghost_limit"},
	{"Can't create link remap for", "a deleted file is still open elsewhere: dump it with link_remap"},
	{"Can't dump that handle", "inotify watches a file that CRIU can't find again on this file system"},
	{"Can't find suitable path for handle", "inotify watches a file that CRIU can't find again on this file system"},
	{"Can't dump nested", "a process in the pod has namespaces of its own, as sandboxes and nested containers have"},
	{"Nested mount namespaces are not supported", "a process in the pod has a mount namespace of its own"},
	{"is not a session leader", "the pod's first process has to be a session leader: start it with setsid"},
	{"Found dangling tty", "the tree uses a terminal of a process outside it"},
	{"without correspond master peer", "the tree's terminal belongs to a process outside it: dump it with orphan_pts_master"},
	{"doesn't have a proper root mount", "a mount in the pod leads outside it: name it as an external mount, and make the root a mount of its own"},
	{"is autodetected external mount", "a mount in the pod leads outside it: name it as an external mount"},
	{"is overmounted so paths are invisible", "a mount hides another one with open files below"},
	{"has bad size", "the file differs from the one at the dump: the same root file system is needed"},
	{"has bad build-ID", "the program or library differs from the one at the dump: the same root file system is needed"},
	{"Can't open file", "a file that was open at the dump is not there: the same root file system is needed"},
	{"Can't bind inet socket", "the pod's address has to be there, and not tentative (nodad), before the restore"},
	{"Can't fork for", "a process id of the tree is in use: restore it in a pid namespace of its own"},
	{"can't write lsm profile", "the AppArmor or SELinux profile of the pod is not loaded on this host"},
	{"CPU instruction capabilities do not match", "this CPU lacks instructions that the program may be using"},
	{"FPU feature required by image", "this CPU lacks a feature that the program may be using"},
	{"xsave size mismatch", "this CPU saves its registers in another layout than the one at the dump"},
	{"Tracking memory is not available", "this kernel has no soft-dirty tracking (CONFIG_MEM_SOFT_DIRTY)"},
	{"suspending seccomp failed", "CRIU runs under a seccomp filter itself, so it can't dump programs that have one"},
	{"Can't get rlimit", "zap lacks CAP_SYS_RESOURCE, without which limits of other users' processes can't be read"},
	{"page-pipe: tee", "raise fs.pipe-max-size to 4194304: CRIU has no CAP_SYS_RESOURCE to pass it"},
	{"page-pipe: splice", "raise fs.pipe-max-size to 4194304: CRIU has no CAP_SYS_RESOURCE to pass it"},
	{"Unable to freeze cgroup", "a process can't be stopped, perhaps one in uninterruptible sleep: see /proc/PID/stack"},
	{"found while seizing", "a process is on its way out: try again"},
	{"task not stopped after seize", "another program traces the process, such as a debugger or strace"},
	{"Individually stopped threads not supported", "some threads of a process are stopped and others not, which CRIU can't restore"},
	{"Unable to interrupt task", "the process is gone, is traced by a debugger, or CAP_SYS_PTRACE is missing"},
	{"exec(tar", "CRIU needs tar to save tmpfs mounts: install it"},
	{"No space left on device", "there is no room for CRIU's images"},
	{"Cannot allocate memory", "the cgroup's memory limit or the machine's memory is too small"},
	{"error while loading shared libraries", "this CRIU lacks libraries: install it again (make deps)"},
}

// hint returns what to do about a cause, or "".
func hint(cause string) string {
	for _, h := range hints {
		if strings.Contains(cause, h.part) {
			return h.hint
		}
	}
	return ""
}
