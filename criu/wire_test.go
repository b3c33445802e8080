package criu

import (
	"context"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

// TestReceiveAfterCancel has contexts end just when a message comes: the next one is waited for with a context of its own, as the last word
// of a dump is that was answered with a final yes.
func TestReceiveAfterCancel(t *testing.T) {
	w, theirs, err := newWire()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	defer theirs.Close()
	reply, err := proto.Marshal(&rpc.CriuResp{Type: rpc.CriuReqType_NOTIFY.Enum(), Success: proto.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	say := func() {
		if _, err := theirs.Write(reply); err != nil {
			t.Error(err)
		}
	}
	for i := range 400 {
		ctx, cancel := context.WithCancel(t.Context())
		say()
		if i%2 == 0 {
			cancel()
		} else {
			go cancel()
		}
		if _, _, err := w.receive(ctx); err != nil {
			if _, _, err := w.receive(t.Context()); err != nil { // nothing was taken
				t.Fatalf("the message is gone: %v", err)
			}
		}
		go func() { time.Sleep(10 * time.Microsecond); say() }()
		if _, _, err := w.receive(t.Context()); err != nil {
			t.Fatalf("a context that ended before ends a receive: %v", err)
		}
	}
}
