package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/zap-migrate/zap/spec"
)

// Pod is what to run. Its address ends in Number, in both families, and so does its MAC.
type Pod struct {
	Name   string
	Rootfs string
	Number byte
	Args   []string
	Bundle bool     // give it as an OCI bundle instead of flags
	Flags  []string // more flags of zap pod run
}

// Addr is host:port of a port of the pod.
func (p Pod) Addr(port int) string { return fmt.Sprintf("10.88.0.%d:%d", p.Number, port) }

// Addr6 is Addr in IPv6.
func (p Pod) Addr6(port int) string { return fmt.Sprintf("[fd88::%d]:%d", p.Number, port) }

// Network is the value of --network.
func (p Pod) Network() string {
	return fmt.Sprintf("bridge=%s,ip=10.88.0.%d/24,ip=fd88::%d/64,mac=02:00:00:00:00:%02x,gateway=10.88.0.254", Bridge, p.Number, p.Number, p.Number)
}

// RunPod starts a pod in the background.
func (h *Host) RunPod(t testing.TB, p Pod) {
	t.Helper()
	args := []string{"pod", "run", "-d", "--network", p.Network()}
	if p.Bundle {
		args = append(args, "--bundle", h.bundle(t, p))
	} else {
		args = append(args, "--rootfs", p.Rootfs)
	}
	args = append(append(args, p.Flags...), p.Name)
	if !p.Bundle {
		args = append(append(args, "--"), p.Args...)
	}
	h.Zap(t, args...)
}

// bundle writes a bundle: what runc spec would write, but for the program.
func (h *Host) bundle(t testing.TB, p Pod) string {
	t.Helper()
	s := spec.Default()
	s.Root.Path, s.Root.Readonly = p.Rootfs, false
	s.Hostname = p.Name
	s.Process.Args = p.Args
	s.Process.Terminal = false
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	dir := h.lab.Path("bundles", h.Name, p.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Pods lists the pods that the host knows.
func (h *Host) Pods(t testing.TB) []map[string]any {
	t.Helper()
	var list []map[string]any
	out := h.Zap(t, "pod", "list", "--format", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil || list == nil {
		t.Fatalf("zap pod list on %s: %v: %q", h.Name, err, out)
	}
	return list
}

// Exec runs a program in a pod and answers with what it printed.
func (h *Host) Exec(t testing.TB, pod string, argv ...string) string {
	t.Helper()
	return h.Zap(t, append([]string{"pod", "exec", pod, "--"}, argv...)...)
}

// itoa keeps argument lists readable.
func itoa(n int) string { return strconv.Itoa(n) }
