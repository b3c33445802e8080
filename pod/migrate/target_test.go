package migrate

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
)

// testTarget is a target with a root directory of its own. The supervisors that it starts are this test binary, which TestMain
// ends at once.
func testTarget(t *testing.T) *Target {
	t.Helper()
	noLeaks(t)
	log := slog.New(slog.DiscardHandler)
	return &Target{
		Runtime: runtime.New(t.TempDir(), log), Binary: &criu.Binary{Version: testCriu}, CacheDir: t.TempDir(), Host: "beta", Idle: patience, Log: log,
	}
}

// visit is a conversation with a target: this side of it, and how Handle ended.
type visit struct {
	*stream.Conn
	ended chan error
}

func (target *Target) visit(t *testing.T, from string) *visit {
	t.Helper()
	near, far := pair(t)
	v := &visit{Conn: near, ended: make(chan error, 1)}
	go func() {
		err := target.Handle(context.Background(), far, from)
		far.Close() // as the server does
		v.ended <- err
	}()
	return v
}

func (v *visit) send(t *testing.T, typ uint8, document any) {
	t.Helper()
	if err := v.WriteJSON(typ, document); err != nil {
		t.Fatal(err)
	}
}

// expect reads frames up to one of a type, past the notes about phases, and decodes it.
func (v *visit) expect(t *testing.T, typ uint8, document any) {
	t.Helper()
	for {
		f, err := v.Read()
		if err != nil {
			t.Fatalf("wait for frame %#02x: %v", typ, err)
		}
		if f.Type == framePhase && typ != framePhase {
			continue
		}
		if f.Type != typ {
			t.Fatalf("frame %#02x: %s; want %#02x", f.Type, f.Payload, typ)
		}
		if err := f.JSON(document); err != nil {
			t.Fatal(err)
		}
		return
	}
}

// end waits until the target has ended the conversation.
func (v *visit) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-v.ended:
		return err
	case <-time.After(patience):
		t.Fatal("the target does not end the conversation")
		return nil
	}
}

// wantEmpty fails the test when the target has anything but its layers' directory.
func (target *Target) wantEmpty(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(target.Runtime.Root())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "layers" {
			t.Errorf("%s is left", e.Name())
		}
	}
	target.mu.Lock()
	defer target.mu.Unlock()
	if len(target.moves) != 0 || len(target.pods) != 0 {
		t.Errorf("%d tokens and %d pods are remembered", len(target.moves), len(target.pods))
	}
}

// raw is the bytes of a frame with any length in its header.
func raw(typ, flags byte, length uint32, payload string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{typ, flags, 0, 0}, length)
	return append(b, payload...)
}

// TestFirstFrame begins conversations as nobody should.
func TestFirstFrame(t *testing.T) {
	target := testTarget(t)
	for name, bytes := range map[string][]byte{
		"nothing":             {},
		"half a header":       {frameOffer, 1, 0},
		"half a frame":        raw(frameOffer, 1, 100, `{"migration":`),
		"a frame of 4 GiB":    raw(frameOffer, 1, 1<<32-1, ""),
		"a frame over 1 MiB":  raw(frameOffer, 1, 1<<20+1, ""),
		"unknown flags":       raw(frameOffer, 0x80, 0, ""),
		"type 0":              raw(0, 1, 2, "{}"),
		"an unknown type":     raw(0x3f, 1, 2, "{}"),
		"a target's frame":    raw(frameAccept, 1, 2, "{}"),
		"a section":           raw(frameSection, 1, 2, "{}"),
		"a commit":            raw(frameCommit, 1, 2, "{}"),
		"an offer as data":    raw(frameOffer, 0, 2, "{}"),
		"no document":         raw(frameOffer, 1, 5, "hello"),
		"another document":    raw(frameOffer, 1, 2, "[]"),
		"null":                raw(frameOffer, 1, 4, "null"),
		"an empty offer":      raw(frameOffer, 1, 2, "{}"),
		"an empty attach":     raw(frameAttach, 1, 2, "{}"),
		"an unknown token":    raw(frameAttach, 1, 14, `{"token":"me"}`),
		"a negative lane":     raw(frameAttach, 1, 24, `{"token":"me","lane":-1}`),
		"a third lane":        raw(frameAttach, 1, 23, `{"token":"me","lane":2}`),
		"an attach as a list": raw(frameAttach, 1, 2, "[]"),
		"a query as text":     raw(frameQuery, 1, 2, `""`),
	} {
		v := target.visit(t, "alpha")
		if _, err := v.NetConn().Write(bytes); err != nil {
			t.Fatal(err)
		}
		w, ok := v.NetConn().(interface{ CloseWrite() error })
		if !ok {
			t.Fatal("the connection has no writing side of its own")
		}
		if err := w.CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) && !errors.Is(err, syscall.EPIPE) { // the target may have hung up
			t.Fatal(err)
		}
		if err := v.end(t); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	target.wantEmpty(t)
}

func TestHostileOffers(t *testing.T) {
	target := testTarget(t)
	for name, m := range mutations {
		o := validOffer(t, "web")
		m.change(o)
		v := target.visit(t, "alpha")
		v.send(t, frameOffer, o)
		var f failed
		v.expect(t, frameFailed, &f)
		if f.Reason == "" || v.end(t) == nil {
			t.Errorf("%s: %q", name, f.Reason)
		}
	}
	target.wantEmpty(t)
}

func TestQueries(t *testing.T) {
	target := testTarget(t)
	ask := func(q query) *status {
		t.Helper()
		v := target.visit(t, "alpha")
		v.send(t, frameQuery, q)
		var st status
		v.expect(t, frameStatus, &st)
		if err := v.end(t); err != nil {
			t.Error(err)
		}
		return &st
	}
	other := strings.Repeat("f", 32)
	for _, q := range []query{
		{},
		{Pod: "web"},
		{Migration: aMigration},
		{Pod: "../web", Migration: aMigration},
		{Pod: "layers", Migration: aMigration},
		{Pod: "web", Migration: aMigration[1:]},
		{Pod: "web", Migration: aMigration, Verdict: "perhaps"},
		{Pod: "web", Migration: strings.Repeat("/", 32)},
	} {
		if st := ask(q); st.Error == "" {
			t.Errorf("%+v: %+v", q, st)
		}
	}
	for _, verdict := range []string{"", "commit", "abort"} {
		if st := ask(query{Pod: "web", Migration: aMigration, Verdict: verdict}); st.Phase != Discarded || st.Error != "" {
			t.Errorf("%q about a move that nobody knows: %+v", verdict, st)
		}
	}
	// A pod whose supervisor has died when it was prepared.
	dir := target.abandon(t, Accepted, Receiving, Restoring, Prepared)
	for _, verdict := range []string{"commit", "abort"} {
		if st := ask(query{Pod: "web", Migration: other, Verdict: verdict}); st.Phase != Discarded {
			t.Errorf("%s of another move: %+v", verdict, st)
		}
	}
	if st := ask(query{Pod: "web", Migration: aMigration, Verdict: "commit"}); !st.Lost || st.Error == "" || st.Phase != Prepared {
		t.Errorf("commit what has died: %+v", st)
	}
	stranger := target.visit(t, "gamma")
	stranger.send(t, frameQuery, query{Pod: "web", Migration: aMigration, Verdict: "abort"})
	var st status
	if stranger.expect(t, frameStatus, &st); st.Error == "" || !strings.Contains(st.Error, "gamma") {
		t.Errorf("a verdict of another host: %+v", st)
	}
	if _, err := os.Stat(filepath.Join(dir, JournalName)); err != nil {
		t.Fatalf("the pod was touched: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: looks for cgroups and links")
	}
	if st := ask(query{Pod: "web", Migration: aMigration, Verdict: "abort"}); st.Phase != Discarded || st.Error != "" {
		t.Errorf("abort what has died: %+v", st)
	}
	target.wantEmpty(t)
}

// TestQueryEnded asks about a pod that has arrived and ended since.
func TestQueryEnded(t *testing.T) {
	target := testTarget(t)
	rt, p := testPod(t, "web")
	target.Runtime = rt
	if err := p.Update(func(r *pod.Record) { r.Migration = aMigration }); err != nil {
		t.Fatal(err)
	}
	for migration, want := range map[string]Phase{aMigration: Running, strings.Repeat("f", 32): Discarded} {
		if st := target.answer(context.Background(), "alpha", &query{Pod: "web", Migration: migration, Verdict: "commit"}); st.Phase != want || st.Error != "" {
			t.Errorf("%s: %+v, want %s", migration, st, want)
		}
	}
}

// accepted is a move that the target has accepted, which takes root.
func accepted(t *testing.T, target *Target) (*visit, accept) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes detached file systems")
	}
	v := target.visit(t, "alpha")
	v.send(t, frameOffer, validOffer(t, "web"))
	var a accept
	v.expect(t, frameAccept, &a)
	if len(a.Token) != 32 || len(a.Missing) != 1 || a.Missing[0] != aDigest {
		t.Fatalf("accepted with %+v", a)
	}
	return v, a
}

func (target *Target) lane(t *testing.T, a accept, lane int) *visit {
	t.Helper()
	v := target.visit(t, "alpha")
	v.send(t, frameAttach, attach{Token: a.Token, Lane: lane})
	return v
}

// TestAcceptedThen goes on badly after an offer was accepted. In the end nothing of the pod is left.
func TestAcceptedThen(t *testing.T) {
	for name, tt := range map[string]struct {
		then func(t *testing.T, target *Target, v *visit, a accept)
		want uint8 // the target's last frame; 0: it can't be read
	}{
		"leave": {func(_ *testing.T, _ *Target, v *visit, _ accept) { v.Close() }, 0},
		"abort": {func(t *testing.T, _ *Target, v *visit, _ accept) { v.send(t, frameAbort, nil) }, frameDiscarded},
		"commit at once": {func(t *testing.T, target *Target, v *visit, a accept) {
			target.lane(t, a, 0)
			target.lane(t, a, 1)
			v.send(t, frameCommit, nil)
		}, frameFailed},
		"freeze at once": {func(t *testing.T, target *Target, v *visit, a accept) {
			target.lane(t, a, 0)
			target.lane(t, a, 1)
			v.send(t, frameFrozen, nil)
		}, frameFailed},
		"talk on": {func(t *testing.T, _ *Target, v *visit, _ accept) {
			for range 10 {
				if v.WriteJSON(0x3e, nil) != nil {
					return
				}
			}
		}, frameFailed},
		"abort by a query": {func(t *testing.T, target *Target, _ *visit, _ accept) {
			q := target.visit(t, "alpha")
			q.send(t, frameQuery, query{Pod: "web", Migration: aMigration, Verdict: "abort"})
			var st status
			if q.expect(t, frameStatus, &st); st.Phase != Discarded || st.Error != "" {
				t.Errorf("%+v", st)
			}
		}, frameDiscarded},
		"a layer that was not asked for": {func(t *testing.T, target *Target, _ *visit, a accept) {
			target.lane(t, a, 1)
			target.lane(t, a, 0).send(t, frameSection, section{Kind: sectionLayer, Name: "sha256:" + strings.Repeat("0", 64)})
		}, frameFailed},
		"an end at once": {func(t *testing.T, target *Target, _ *visit, a accept) {
			for lane := range laneCount {
				target.lane(t, a, lane).send(t, frameSection, section{Kind: sectionEnd})
			}
		}, frameFailed},
		"memory at once": {func(t *testing.T, target *Target, _ *visit, a accept) {
			target.lane(t, a, 1)
			target.lane(t, a, 0).send(t, frameSection, section{Kind: sectionMemory})
		}, frameFailed},
		"a section out of turn": {func(t *testing.T, target *Target, _ *visit, a accept) {
			target.lane(t, a, 1)
			target.lane(t, a, 0).send(t, frameSection, section{Kind: sectionTree, Name: "zap-0"})
		}, frameFailed},
		"no section": {func(t *testing.T, target *Target, _ *visit, a accept) {
			target.lane(t, a, 0)
			target.lane(t, a, 1).send(t, frameBytes, "x")
		}, frameFailed},
		"a lane that ends": {func(t *testing.T, target *Target, _ *visit, a accept) {
			target.lane(t, a, 0)
			target.lane(t, a, 1).Close()
		}, frameFailed},
		"files and no supervisor": {func(t *testing.T, target *Target, _ *visit, a accept) {
			target.lane(t, a, 1)
			l := target.lane(t, a, 0)
			l.send(t, frameSection, section{Kind: sectionUpper})
			_, _ = stream.Send(context.Background(), l.Conn, t.TempDir(), stream.Change{})
		}, frameFailed},
	} {
		t.Run(name, func(t *testing.T) {
			target := testTarget(t)
			v, a := accepted(t, target)
			tt.then(t, target, v, a)
			if tt.want != 0 {
				v.expect(t, tt.want, new(any))
			}
			if err := v.end(t); err == nil {
				t.Error("no error")
			}
			target.wantEmpty(t)
		})
	}
}

// TestTokens shows tokens as they should not be used.
func TestTokens(t *testing.T) {
	target := testTarget(t)
	v, a := accepted(t, target)
	thief := target.visit(t, "gamma")
	thief.send(t, frameAttach, attach{Token: a.Token})
	if err := thief.end(t); err == nil {
		t.Error("another host's connection was taken")
	}
	first := target.lane(t, a, 0)
	time.Sleep(time.Millisecond) // either may come first, and one is too many
	second := target.lane(t, a, 0)
	select {
	case err := <-first.ended:
		if err == nil {
			t.Error("the first connection was let go")
		}
	case err := <-second.ended:
		if err == nil {
			t.Error("a token was good for two connections of a lane")
		}
	case <-time.After(patience):
		t.Fatal("a token is good for two connections of a lane")
	}
	v.send(t, frameAbort, nil)
	v.expect(t, frameDiscarded, new(any))
	if err := v.end(t); !errors.Is(err, errAborted) {
		t.Error(err)
	}
	late := target.lane(t, a, 1)
	if err := late.end(t); err == nil {
		t.Error("a token outlives its move")
	}
	target.wantEmpty(t)
}

// TestNameIsTaken offers a pod twice.
func TestNameIsTaken(t *testing.T) {
	target := testTarget(t)
	v, _ := accepted(t, target)
	again := target.visit(t, "gamma")
	o := validOffer(t, "web")
	o.Migration = strings.Repeat("f", 32)
	again.send(t, frameOffer, o)
	var r reject
	again.expect(t, frameReject, &r)
	if len(r.Blockers) != 1 || r.Blockers[0].Subject != "web" {
		t.Errorf("%+v", r)
	}
	if err := again.end(t); err != nil {
		t.Error(err)
	}
	// The other host can't call the first one off.
	q := target.visit(t, "gamma")
	q.send(t, frameQuery, query{Pod: "web", Migration: aMigration, Verdict: "abort"})
	var st status
	if q.expect(t, frameStatus, &st); st.Error == "" {
		t.Errorf("%+v", st)
	}
	v.send(t, frameAbort, nil)
	v.expect(t, frameDiscarded, new(any))
	v.end(t)
	target.wantEmpty(t)
}

func TestCheckChangesNothing(t *testing.T) {
	target := testTarget(t)
	o := validOffer(t, "web")
	o.Check = true
	v := target.visit(t, "alpha")
	v.send(t, frameOffer, o)
	var a accept
	v.expect(t, frameAccept, &a)
	if err := v.end(t); err != nil || a.Token != "" || a.Host != "beta" {
		t.Errorf("%+v, %v", a, err)
	}
	target.wantEmpty(t)
}

// TestSweep leaves alone what lives, and what only a person or the source may decide about.
func TestSweep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: looks for cgroups and links")
	}
	target := testTarget(t)
	root := target.Runtime.Root()
	journal := func(name, side string, phases ...Phase) *Journal {
		t.Helper()
		if err := os.Mkdir(filepath.Join(root, name), 0o700); err != nil {
			t.Fatal(err)
		}
		h := header(side)
		h.Pod = name
		j, err := NewJournal(filepath.Join(root, name), h)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { j.Close() })
		enter(t, j, phases...)
		return j
	}
	journal("dead", "target", Accepted, Receiving).Close()
	journal("new", "target").Close()
	journal("prepared", "target", Accepted, Receiving, Restoring, Prepared).Close()
	journal("ran", "target", Accepted, Receiving, Restoring, Prepared, Running).Close()
	journal("leaving", "source", Offered).Close()
	journal("arriving", "target", Accepted) // somebody works on it
	for _, path := range []string{"pod/upper", ".removed/x/y", "layers/" + tempPrefix + "x/y", "layers/abc", "unborn", "empty"} {
		if err := os.MkdirAll(filepath.Join(root, path), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "unborn", "."+JournalName+"-x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := target.Sweep(context.Background()); err != nil {
			t.Error(err)
		}
	}
	for name, want := range map[string]bool{
		"dead": false, "new": false, "unborn": false, ".removed": false, "layers/" + tempPrefix + "x": false,
		"prepared": true, "ran": true, "leaving": true, "arriving": true, "pod/upper": true, "layers/abc": true, "empty": true,
	} {
		if _, err := os.Stat(filepath.Join(root, name)); (err == nil) != want {
			t.Errorf("%s: %v, want it to be there: %v", name, err, want)
		}
	}
	target.Runtime = runtime.New(filepath.Join(root, "missing"), target.Log)
	if err := target.Sweep(context.Background()); err != nil {
		t.Errorf("without a root directory: %v", err)
	}
}
