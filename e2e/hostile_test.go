package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/pod/peer"
)

// Frames that the hostile tests look for; PROTOCOL.md has the numbers.
const (
	frameOffer    = 0x10
	frameSection  = 0x30
	frameTreeData = 0x41
)

// TestStrangers sends a server what it must not take, at every layer from the first byte on. Afterwards it has nothing more
// than before, and takes a pod.
func TestStrangers(t *testing.T) {
	tr := newTrip(t)
	tr.run(Binary(t), "keys", "init", tr.Path("other"), "alpha")
	good := func(t *testing.T) *tls.Config { return clientConfig(t, tr.alpha.TLS) }
	hello := append([]byte("zap\x00\r\n\x1a\n"), 0, 1, 0, 1, 0, 0, 0, 0)
	send := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, tt := range []struct {
		name   string
		config func(t *testing.T) *tls.Config // nil: no TLS
		bytes  []byte
	}{
		{"plain text", nil, []byte("GET / HTTP/1.1\r\n\r\n")},
		{"no TLS", nil, hello},
		{"certificate of another CA", func(t *testing.T) *tls.Config {
			c := good(t)
			c.Certificates = clientConfig(t, tr.Path("other", "alpha")).Certificates
			return c
		}, hello},
		{"host of another CA", func(t *testing.T) *tls.Config { return clientConfig(t, tr.Path("other", "alpha")) }, hello},
		{"no certificate", func(t *testing.T) *tls.Config { c := good(t); c.Certificates = nil; return c }, hello},
		{"TLS 1.2", func(t *testing.T) *tls.Config {
			c := good(t)
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return c
		}, hello},
		{"nothing", good, nil},
		{"half a greeting", good, hello[:9]},
		{"another greeting", good, []byte("SSH-2.0-OpenSSH_9.2p1 Debian\r\n")},
		{"a version from the future", good, append([]byte("zap\x00\r\n\x1a\n"), 0, 99, 0, 100, 0, 0, 0, 0)},
		{"half a header", good, send(hello, []byte{frameOffer, 1, 0})},
		{"half a frame", good, send(hello, []byte{frameOffer, 1, 0, 0, 0, 0, 1, 0}, []byte(`{"migration":`))},
		{"a frame of 4 GiB", good, send(hello, []byte{frameOffer, 1, 0, 0, 0xff, 0xff, 0xff, 0xff}, make([]byte, 4096))},
		{"a zip bomb", good, send(hello, []byte{frameOffer, 3, 0, 0, 0, 0, 0, 14}, []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 1, 0, 0, 0, 0})},
		{"unknown flags", good, send(hello, []byte{frameOffer, 0xf0, 0, 0, 0, 0, 0, 0})},
		{"no document", good, send(hello, []byte{frameOffer, 1, 0, 0, 0, 0, 0, 4}, []byte("null"))},
		{"an empty offer", good, send(hello, []byte{frameOffer, 1, 0, 0, 0, 0, 0, 2}, []byte("{}"))},
		{"deep nesting", good, send(hello, []byte{frameOffer, 1, 0, 0, 0, 1, 0, 0}, bytes.Repeat([]byte("["), 1<<16))},
		{"an unknown frame", good, send(hello, []byte{0x7f, 0, 0, 0, 0, 0, 0, 0})},
		{"bulk without an offer", good, send(hello, []byte{0x13, 1, 0, 0, 0, 0, 0, 13}, []byte(`{"token":"x"}`))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			raw, err := tr.client.Dial(tr.beta.Peer(), 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			raw.SetDeadline(time.Now().Add(30 * time.Second))
			conn := io.ReadWriter(raw)
			if tt.config != nil {
				conn = tls.Client(raw, tt.config(t))
			}
			if _, err := conn.Write(tt.bytes); err == nil {
				raw.CloseWrite()
			}
			// The server ends the conversation by itself; what it says until then is short.
			answer, err := io.ReadAll(io.LimitReader(conn, 64<<10))
			if os.IsTimeout(err) || len(answer) >= 64<<10 {
				t.Errorf("it goes on talking: %d bytes, %v", len(answer), err)
			}
			if tt.config == nil && len(answer) > 7 {
				t.Errorf("a stranger learns %q", answer)
			}
			if bytes.Contains(answer, []byte("token")) {
				t.Errorf("it accepts: %q", answer)
			}
		})
	}
	for _, h := range tr.Hosts {
		tr.wantNothingLeft(t, h)
	}
	tr.moveOne(t)
}

func clientConfig(t *testing.T, dir string) *tls.Config {
	t.Helper()
	_, client, err := peer.LoadTLS(dir)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// moveOne shows that the hosts still work.
func (tr *trip) moveOne(t *testing.T) {
	t.Helper()
	pod := Pod{Name: tr.PodName("after"), Rootfs: RedisRootfs(t), Number: 70, Args: RedisArgs()}
	tr.alpha.RunPod(t, pod)
	counter := NewCounter(t, tr.client, pod.Addr(6379), "n", time.Millisecond)
	tr.alpha.Migrate(t, pod.Name, tr.beta)
	counter.WantProgress(t)
	tr.beta.Zap(t, "pod", "rm", "--force", pod.Name)
}

// TestMigrateWithWrongKeys is what a user sees who names the keys of another CA.
func TestMigrateWithWrongKeys(t *testing.T) {
	tr := newTrip(t)
	tr.run(Binary(t), "keys", "init", tr.Path("other"), "alpha")
	pod := Pod{Name: tr.PodName("keys"), Rootfs: RedisRootfs(t), Number: 71, Args: RedisArgs()}
	tr.alpha.RunPod(t, pod)
	NewCounter(t, tr.client, pod.Addr(6379), "n", time.Second).WantProgress(t) // redis has given itself its name
	running := tr.alpha.Inventory(t)
	r := tr.alpha.TryZap(t, "migrate", "--tls", tr.Path("other", "alpha"), pod.Name, tr.beta.Peer())
	if r.Err == nil || !strings.Contains(r.Stderr, tr.beta.Peer()) || strings.Contains(r.Stderr, "panic") {
		t.Errorf("migrate with keys of another CA: %v", r)
	}
	tr.alpha.WantSame(t, running, caches...)
	tr.wantNothingLeft(t, tr.beta)
	tr.wantOnlyOn(t, tr.alpha, pod.Name)
	tr.alpha.Migrate(t, pod.Name, tr.beta) // with the right ones it goes
	tr.wantOnlyOn(t, tr.beta, pod.Name)
}

// TestHostilePeer has somebody with good keys change what a source sends. The target must refuse it with no effect, and the
// pod must go on at the source.
func TestHostilePeer(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(victim string) func(*Frame)
	}{
		{"a name that leads up", func(string) func(*Frame) { return offerField("pod", "../../outside") }},
		{"a name with a slash", func(string) func(*Frame) { return offerField("pod", "a/b") }},
		{"a name that is empty", func(string) func(*Frame) { return offerField("pod", "") }},
		{"a file that leads up", func(string) func(*Frame) { return inTrees("tmp/aaaaaaaaaa", "../../../../xx") }},
		{"a file at the root", func(string) func(*Frame) { return inTrees("tmp/aaaaaaaaaa", "/tmp/aaaaaaaaa") }},
		{"a file with a NUL", func(string) func(*Frame) { return inTrees("tmp/aaaaaaaaaa", "tmp/aaaaa\x00aaaa") }},
		{"a file behind a symbolic link", func(string) func(*Frame) { return inTrees("tmp/zzzzzz/pwned", "tmp/lnklnk/pwned") }},
		{"content that is not its digest", func(string) func(*Frame) { return inLayers("HONEST_BYTES", "FORGED_BYTES") }},
		{"records that are no records", func(string) func(*Frame) {
			return func(f *Frame) {
				if f.Type == frameTreeData {
					for i := range f.Payload {
						f.Payload[i] ^= 0x5a
					}
				}
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := newTrip(t)
			mallory := tr.NewClient()
			tr.run(Binary(t), "keys", "init", tr.Path("keys"), "mallory")
			victim := tr.Path("victim")
			if err := os.Mkdir(victim, 0o755); err != nil {
				t.Fatal(err)
			}
			script := "mkdir -p /tmp/zzzzzz; echo x > /tmp/aaaaaaaaaa; echo x > /tmp/zzzzzz/pwned; ln -s " + victim + " /tmp/lnklnk; while :; do sleep 1; done"
			pod := Pod{Name: tr.PodName("honest"), Rootfs: layerOfItsOwn(t, tr), Number: 72, Args: []string{"/bin/sh", "-c", script}}
			tr.alpha.RunPod(t, pod)
			WaitFor(t, 20*time.Second, "the pod's files", func() bool {
				return tr.alpha.TryZap(t, "pod", "exec", pod.Name, "/bin/ls", "/tmp/lnklnk").Err != nil && tr.alpha.TryZap(t, "pod", "exec", pod.Name, "/bin/cat", "/tmp/zzzzzz/pwned").Err == nil
			})
			changed := 0
			change := tt.change(victim)
			m := NewMallory(t, mallory, "10.88.0.201:7700", tr.beta.Peer(), tr.Path("keys", "mallory"), func(f *Frame) {
				before := bytes.Clone(f.Payload)
				if change(f); !bytes.Equal(before, f.Payload) {
					changed++
				}
			})
			r := tr.alpha.TryZap(t, "migrate", "--tls", tr.alpha.TLS, "--format", "json", pod.Name, m.Addr)
			if changed == 0 {
				t.Fatalf("mallory had nothing to change: %v", r)
			}
			if r.Err == nil || strings.Contains(r.Stdout, `"migrated"`) {
				t.Errorf("the move went through: %v", r)
			}
			tr.wantOnlyOn(t, tr.alpha, pod.Name)
			tr.wantNothingLeft(t, tr.beta)
			if names, err := readDirNames(victim); err != nil || len(names) != 0 {
				t.Errorf("it reached %s: %q, %v", victim, names, err)
			}
			if _, err := os.Lstat(filepath.Join(filepath.Dir(tr.beta.Root), "outside")); err == nil {
				t.Error("it made a directory beside the root")
			}
			t.Logf("refused: %s", strings.TrimSpace(r.Stderr))
			tr.alpha.Migrate(t, pod.Name, tr.beta) // and without mallory it goes
		})
	}
}

// layerOfItsOwn is a root file system that the target has not seen, with text in it that can be found on the wire.
func layerOfItsOwn(t *testing.T, tr *trip) string {
	t.Helper()
	dir := MakeRootfs(t, "layer-"+tr.ID, func(r *Rootfs) error {
		if err := r.busybox(); err != nil {
			return err
		}
		return r.write("/etc/marker", strings.Repeat("HONEST_BYTES\n", 100), 0o644)
	})
	return dir
}

// offerField sets a field of the offer.
func offerField(field string, value any) func(*Frame) {
	return func(f *Frame) {
		if f.Type != frameOffer {
			return
		}
		var offer map[string]any
		if json.Unmarshal(f.Payload, &offer) != nil {
			return
		}
		offer[field] = value
		f.Payload, _ = json.Marshal(offer)
	}
}

// inTrees replaces bytes in what describes file trees. Both have the same length, because lengths stand before them.
func inTrees(old, replacement string) func(*Frame) {
	return func(f *Frame) {
		if f.Type == frameTreeData && len(old) == len(replacement) {
			f.Payload = bytes.ReplaceAll(f.Payload, []byte(old), []byte(replacement))
		}
	}
}

// inLayers is inTrees for lower layers only.
func inLayers(old, replacement string) func(*Frame) {
	replace, inside := inTrees(old, replacement), false
	return func(f *Frame) {
		if f.Type == frameSection {
			inside = bytes.Contains(f.Payload, []byte(`"layer"`))
		}
		if inside {
			replace(f)
		}
	}
}
