// Package migrate is the move of one pod from one host to another: its phases,
// the journal that survives a crash, and the two sides that walk through them.
//
// The source coordinates. Before its journal says Committed, every failure
// leaves the pod running on the source; after that it runs on the target as
// soon as the target can be told. At no moment do two copies run: the source's
// processes are killed before the target's are let go, and they are frozen and
// cut from the network before the first byte of them is sent.
package migrate
