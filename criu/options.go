package criu

import (
	"fmt"
	"os"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

const (
	// logLevel is warnings and errors: CRIU formats and writes debug lines
	// while the tree stands still.
	logLevel = 2
	// talkativeLevel has CRIU say everything.
	talkativeLevel = 4
	// ghostLimit bounds one deleted file that goes into the images, in bytes.
	ghostLimit = 1 << 30
	// freezeSeconds bounds how long CRIU tries to stop the tree.
	freezeSeconds = 30
)

// Names of the logs that the builders below ask for, in the work directory.
const (
	DumpLog    = "dump.log"
	RestoreLog = "restore.log"
)

// base are the options that dump and restore have to agree on. Network and
// cgroups are not CRIU's business. The files have to stay open until the
// request is over: CRIU opens the directories by their numbers here.
func base(images, work *os.File, log string) *rpc.CriuOpts {
	return &rpc.CriuOpts{
		ImagesDirFd:       proto.Int32(int32(images.Fd())),
		WorkDirFd:         proto.Int32(int32(work.Fd())),
		LogFile:           proto.String(log),
		LogLevel:          proto.Int32(logLevel),
		NotifyScripts:     proto.Bool(true),
		TcpEstablished:    proto.Bool(true),
		FileLocks:         proto.Bool(true),
		LinkRemap:         proto.Bool(true),
		ExtUnixSk:         proto.Bool(false),
		ShellJob:          proto.Bool(false),
		OrphanPtsMaster:   proto.Bool(true),
		ManageCgroups:     proto.Bool(true), // the mode below counts
		ManageCgroupsMode: rpc.CriuCgMode_IGNORE.Enum(),
		NetworkLock:       rpc.CriuNetworkLockMethod_SKIP.Enum(),
		GhostLimit:        proto.Uint32(ghostLimit),
	}
}

// DumpOptions are the options for dumping the tree below pid, a process id in
// the caller's pid namespace, into the directory images; logs and statistics go to work.
func DumpOptions(pid int, images, work *os.File) *rpc.CriuOpts {
	o := base(images, work, DumpLog)
	o.Pid = proto.Int32(int32(pid))
	o.Timeout = proto.Uint32(freezeSeconds)
	return o
}

// RestoreOptions are the options for restoring the tree in images. Root is
// the path, in the session's mount namespace, of the mount that becomes its
// root file system; empty for a tree without a mount namespace of its own. The
// first process becomes a child of the caller.
func RestoreOptions(images, work *os.File, root string) *rpc.CriuOpts {
	o := base(images, work, RestoreLog)
	o.RstSibling = proto.Bool(true)
	if root != "" {
		o.Root = proto.String(root)
	}
	return o
}

// SetFreezer names the cgroup of the tree to dump, see cgroup.FreezerPath. CRIU
// freezes it unless it finds it frozen already.
func SetFreezer(o *rpc.CriuOpts, path string) { o.FreezeCgroup = proto.String(path) }

// SetPageSocket sends the pages of a dump to descriptor fd of the session
// ([Session.FD]), where somebody has to speak the page server's protocol.
func SetPageSocket(o *rpc.CriuOpts, fd int32) {
	o.Ps = &rpc.CriuPageServerInfo{Fd: proto.Int32(fd)}
}

// DumpExternalMount leaves the mount on path in the tree out of the dump and
// calls it key there.
func DumpExternalMount(o *rpc.CriuOpts, path, key string) {
	o.External = append(o.External, fmt.Sprintf("mnt[%s]:%s", path, key))
}

// RestoreExternalMount puts source, a path in the session's mount namespace,
// in the place of the mount that the dump called key.
func RestoreExternalMount(o *rpc.CriuOpts, key, source string) {
	o.External = append(o.External, fmt.Sprintf("mnt[%s]:%s", key, source))
}

// FileName is CRIU's name for a file that is open on a mount outside of the tree.
func FileName(mount, inode uint64) string { return fmt.Sprintf("file[%x:%x]", mount, inode) }

// DumpExternalFile leaves a file outside of the tree ([FileName]) out of the
// dump. The restore needs a descriptor in its place ([InheritFD]).
func DumpExternalFile(o *rpc.CriuOpts, name string) { o.External = append(o.External, name) }

// InheritFD puts descriptor fd of the session ([Session.FD]) in the place of
// the file that key names as readlink of /proc/PID/fd did: "pipe:[1234]",
// "socket:[1234]", or a path without its first slash; or a [FileName].
func InheritFD(o *rpc.CriuOpts, fd int32, key string) {
	if strings.HasPrefix(key, "file[") {
		// CRIU takes it for a path, too. By the whole name it would find the descriptor as well,
		// and then want it to be of the same kind and size as the file was.
		key = key[1:]
	}
	o.InheritFd = append(o.InheritFd, &rpc.InheritFd{Fd: proto.Int32(fd), Key: proto.String(key)})
}
