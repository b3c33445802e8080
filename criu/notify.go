package criu

import (
	"fmt"
	"os"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
)

// Callbacks are the points at which CRIU waits for an answer, in the order in
// which they come. A nil function answers yes; an error answers no, and ends
// the request where CRIU can still end it. A callback may take as long as it
// wants: CRIU waits. What the answer does is said at each; docs/criu.md has
// the places in CRIU's source.
type Callbacks struct {
	// PreDump: options are checked, nothing is stopped yet. No ends the dump.
	// It is the gate for freezing a tree after CRIU has done its preparations.
	PreDump func() error
	// NetworkLock and NetworkUnlock come only when the tree has a network
	// namespace that CRIU itself is not in. No to NetworkLock ends the dump;
	// NetworkUnlock's answer is not looked at.
	NetworkLock, NetworkUnlock func() error
	// QueryExternal: the tree is stopped. What it returns is added to the
	// dump's list of external resources.
	QueryExternal func() ([]string, error)
	// StatusReady comes with lazy pages only: all images but the pages are
	// written, and CRIU listens for who will ask for those. The answer changes
	// nothing.
	StatusReady func() error
	// PostDump: all images and pages are written, the tree is stopped. Yes
	// kills the tree, no lets it run on. Once it is answered with yes, an
	// ending context no longer ends the dump.
	PostDump func() error

	// PreRestore: images are read, no process is made yet. No ends the restore.
	PreRestore func() error
	// SetupNamespaces: the first process is there, with its namespaces. Pid is
	// the first process, in the caller's pid namespace. No kills it.
	SetupNamespaces func(pid int) error
	// OrphanPtsMaster gets the master of a terminal whose slave was restored.
	// The callback has to close or keep it. No makes the restore fail.
	OrphanPtsMaster func(master *os.File) error
	// PostRestore: the whole tree is there, not running; memory and files are
	// restored, credentials and repair mode of sockets are not. No kills it.
	PostRestore func(pid int) error
	// PreResume: everything that can fail is done, the tree is stopped at its
	// last system call before it goes on. CRIU itself would let it run after a
	// no, so the session kills the tree and CRIU instead. The tree also runs on
	// when this process or CRIU dies here: freeze its cgroup in the callback
	// where that must not happen, which takes no time as it stands still.
	PreResume func() error
	// PostResume: the tree runs. The answer changes nothing.
	PostResume func() error
}

// refusal is an error of a callback, with the callback's name.
type refusal struct {
	callback string
	err      error
}

func (r *refusal) Error() string { return fmt.Sprintf("refused at %s: %v", r.callback, r.err) }
func (r *refusal) Unwrap() error { return r.err }

// CRIU's names of its callbacks.
const (
	preDump         = "pre-dump"
	networkLock     = "network-lock"
	networkUnlock   = "network-unlock"
	queryExternal   = "query-ext-files"
	statusReady     = "status-ready"
	postDump        = "post-dump"
	preRestore      = "pre-restore"
	setupNamespaces = "setup-namespaces"
	orphanPtsMaster = "orphan-pts-master"
	postRestore     = "post-restore"
	preResume       = "pre-resume"
	postResume      = "post-resume"
)

// answer calls the callback that n names and returns what to send back. The
// files belong to the callback; those that it does not take are closed.
func (c *Callbacks) answer(n *rpc.CriuNotify, files []*os.File) (*rpc.CriuOpts, error) {
	name := n.GetScript()
	if name == orphanPtsMaster {
		return nil, c.orphan(files)
	}
	closeAll(files)
	if name == queryExternal && c.QueryExternal != nil {
		external, err := c.QueryExternal()
		if err != nil {
			return nil, &refusal{name, err}
		}
		return &rpc.CriuOpts{ImagesDirFd: new(int32), External: external}, nil
	}
	f := c.function(name, int(n.GetPid()))
	if f == nil {
		return nil, nil
	}
	if err := f(); err != nil {
		return nil, &refusal{name, err}
	}
	return nil, nil
}

func (c *Callbacks) orphan(files []*os.File) error {
	if len(files) != 1 {
		closeAll(files)
		return &refusal{orphanPtsMaster, fmt.Errorf("%d descriptors came with it, not one", len(files))}
	}
	if c.OrphanPtsMaster == nil {
		closeAll(files)
		return nil
	}
	if err := c.OrphanPtsMaster(files[0]); err != nil {
		return &refusal{orphanPtsMaster, err}
	}
	return nil
}

// function returns the callback without its argument, or nil.
func (c *Callbacks) function(name string, pid int) func() error {
	withPid := func(f func(int) error) func() error {
		if f == nil {
			return nil
		}
		return func() error { return f(pid) }
	}
	switch name {
	case preDump:
		return c.PreDump
	case networkLock:
		return c.NetworkLock
	case networkUnlock:
		return c.NetworkUnlock
	case statusReady:
		return c.StatusReady
	case postDump:
		return c.PostDump
	case preRestore:
		return c.PreRestore
	case setupNamespaces:
		return withPid(c.SetupNamespaces)
	case postRestore:
		return withPid(c.PostRestore)
	case preResume:
		return c.PreResume
	case postResume:
		return c.PostResume
	default:
		return nil
	}
}
