package vm

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
)

// buildTimeout bounds what is made from nothing: some 100 MB to download and to unpack.
const buildTimeout = 12 * time.Minute

// commandBridge is the bridge in the switch's namespace that commands go through; the tests' own network is another.
const commandBridge = "mgmt"

// Lab is a laboratory whose hosts are machines. Its subnets are those of e2e.Lab.
type Lab struct {
	*e2e.Lab
	t        testing.TB
	image    string // root disk
	qemu     *qemu
	agent    string
	machines []*Machine
}

// NewLab makes a laboratory without machines, and keys for machines of these names. It skips the test unless ZAP_VM is set; then what machines
// need must be there.
func NewLab(t testing.TB, names ...string) *Lab {
	t.Helper()
	if os.Getenv("ZAP_VM") == "" {
		t.Skip("virtual machines are wanted only with ZAP_VM=1: make test-guest, make test-vm")
	}
	if os.Geteuid() != 0 {
		t.Fatal("virtual machines need root: their cards are taps in a namespace of the laboratory's")
	}
	l := &Lab{t: t, Lab: e2e.NewSwitch(t, names...)}
	l.AddBridge(commandBridge, netip.MustParsePrefix("10.99.0.254/24"))
	l.agent = e2e.Build(t, "agent", "github.com/zap-migrate/zap/e2e/vm/agent")
	l.cached(func(ctx context.Context, c *cache) (err error) {
		if l.image, err = c.image(ctx); err == nil {
			l.qemu, err = c.qemu(ctx)
		}
		return err
	})
	return l
}

// Kernel gets the newest kernel of a Debian suite.
func (l *Lab) Kernel(suite string) *Kernel {
	l.t.Helper()
	var k *Kernel
	l.cached(func(ctx context.Context, c *cache) (err error) {
		k, err = c.kernel(ctx, suite)
		return err
	})
	return k
}

// cached calls f with the cache, which no other run has meanwhile. An error ends the test.
func (l *Lab) cached(f func(context.Context, *cache) error) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	c, err := openCache(ctx, l.t.Logf)
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.close()
	c.sweep()
	if err := f(ctx, c); err != nil {
		l.t.Fatal(err)
	}
}

// initrd writes a machine's initramfs: this run's first process, and the kernel's modules.
func (l *Lab) initrd(k *Kernel, path string) error {
	agent, err := os.ReadFile(l.agent)
	if err != nil {
		return err
	}
	modules, err := os.ReadFile(k.modules)
	if err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	w := newCpio(out)
	for _, dir := range []string{"dev", "proc", "sys", "root"} {
		w.dir(dir)
	}
	w.device("dev/console", 5, 1)
	w.file("init", agent)
	if err := w.close(); err != nil {
		return err
	}
	_, err = out.Write(modules)
	return err
}

// Scratch is a directory for a machine's files that goes when the laboratory does.
func (l *Lab) scratch(name string) string {
	l.t.Helper()
	dir := l.Path("machines", name)
	if err := os.MkdirAll(filepath.Join(dir, "tmp"), 0o755); err != nil {
		l.t.Fatal(err)
	}
	return dir
}
