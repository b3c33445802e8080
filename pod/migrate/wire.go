package migrate

import (
	"errors"

	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/spec"
)

// Frame types of the control connection. Bodies are JSON. PROTOCOL.md in
// pod/peer describes the conversation.
const (
	frameOffer     uint8 = 0x10 // source: Offer
	frameAccept    uint8 = 0x11 // target: accept
	frameReject    uint8 = 0x12 // target: reject, with all reasons
	frameAttach    uint8 = 0x13 // source, first frame of the bulk connection: attach
	framePhase     uint8 = 0x14 // target: phaseNote
	frameAnnounced uint8 = 0x15 // target: what comes for the pod comes to it now, and is held
	frameFrozen    uint8 = 0x16 // source: the pod is frozen, its address is the target's to announce
	frameReady     uint8 = 0x17 // target: all that can be prepared before the freeze is
	framePrepared  uint8 = 0x18 // target: the tree is restored and stopped
	frameCommit    uint8 = 0x19 // source: let it run
	frameRunning   uint8 = 0x1a // target: it runs
	frameAbort     uint8 = 0x1b // source: drop it
	frameDiscarded uint8 = 0x1c // target: nothing of it is left
	frameFailed    uint8 = 0x1d // target: failed, and nothing of it is left
	frameQuery     uint8 = 0x1f // source, on a new connection: query
	frameStatus    uint8 = 0x20 // target: status
	frameConfirm   uint8 = 0x21 // source: is the pod prepared still?
	frameConfirmed uint8 = 0x22 // target: it is

	frameSection uint8 = 0x30 // source, on the bulk connection: section
	frameBytes   uint8 = 0x31 // source, on the bulk connection: bytes of the log
)

// Offer describes a pod that wants to move.
type Offer struct {
	Migration string            `json:"migration"`
	Check     bool              `json:"check,omitempty"` // only ask
	Pod       string            `json:"pod"`
	Manifest  *spec.Manifest    `json:"manifest"`
	Bundle    *spec.Bundle      `json:"bundle"`
	Record    pod.Record        `json:"record"`
	Network   *network.Config   `json:"network,omitempty"`
	Mounts    runtime.MountPlan `json:"mounts"`
	Rows      uint16            `json:"rows,omitempty"`
	Columns   uint16            `json:"columns,omitempty"`
	Status    string            `json:"status"`
}

type accept struct {
	Token   string   `json:"token"`             // names the move on the bulk connection
	Missing []string `json:"missing,omitempty"` // digests of lower layers to be sent
	Host    string   `json:"host"`
	VDSO    string   `json:"vdso,omitempty"` // digest of the kernel's, vdso.Digest
}

type reject struct {
	Blockers []spec.Blocker `json:"blockers"`
}

type attach struct {
	Token string `json:"token"`
	Lane  int    `json:"lane"`
}

// Lanes of a move: bulk connections, so that the last files need not wait for
// the memory.
const (
	laneMemory = 0 // layers and files before the freeze, memory, CRIU's metadata
	laneFiles  = 1 // after the freeze: changed files, tmpfs trees, the rest of the log
	laneCount  = 2
)

type phaseNote struct {
	Phase Phase `json:"phase"`
}

// Sections of the bulk connection, each followed by its content.
const (
	sectionLayer  = "layer"  // a lower layer, named by its digest
	sectionUpper  = "upper"  // the pod's own layer: first whole, then what changed
	sectionLog    = "log"    // the pod's log, or with the name "old" the old one, from Offset on
	sectionTree   = "tree"   // the content of the tmpfs mount called Name
	sectionLive   = "live"   // all that goes over before the freeze has; without content
	sectionRounds = "rounds" // memory, while the pod runs (pages.Rounds)
	sectionMemory = "memory" // the page channel
	sectionQueues = "queues" // POSIX message queues: a JSON list
	sectionImages = "images" // CRIU's metadata
	sectionEnd    = "end"    // everything has been sent
)

// oldLog is the name of the old log's section.
const oldLog = "old"

type section struct {
	Kind   string `json:"kind"`
	Name   string `json:"name,omitempty"`
	Offset int64  `json:"offset,omitempty"`
	Size   int64  `json:"size,omitempty"`
	Final  bool   `json:"final,omitempty"`  // of the upper layer: the pod is frozen, this is its last state
	Rotate bool   `json:"rotate,omitempty"` // of the log: the one that came before is the old one now
}

type prepared struct {
	Timings map[string]int64 `json:"timings,omitempty"` // microseconds
}

type running struct {
	HeldFrames int              `json:"held_frames"`
	Timings    map[string]int64 `json:"timings,omitempty"`
}

type failed struct {
	Reason string `json:"reason"`
	Stage  string `json:"stage,omitempty"` // pod.StageRestore, or nothing
}

// failureOf is what to tell of an error.
func failureOf(err error) failed {
	f := failed{Reason: err.Error()}
	var said *supervisorError
	if errors.As(err, &said) {
		f.Stage = said.word.Stage
	}
	return f
}

type query struct {
	Migration string `json:"migration"`
	Pod       string `json:"pod"`
	Verdict   string `json:"verdict"` // "", "commit" or "abort"
}

type status struct {
	Phase      Phase  `json:"phase"` // Discarded when nothing is known of the move
	HeldFrames int    `json:"held_frames,omitempty"`
	Error      string `json:"error,omitempty"`
	Lost       bool   `json:"lost,omitempty"` // of an error: asking again will not change it
}
