package vm

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// qemu is an unpacked QEMU in the cache.
type qemu struct{ dir string }

// qemu gets the QEMU of the guests' own Debian release: Debian 12's panics guests in emulation, see the package's comment.
func (c *cache) qemu(ctx context.Context) (*qemu, error) {
	a, err := c.openArchive(ctx, Stable)
	if err != nil {
		return nil, err
	}
	files, err := a.resolve(ctx, "qemu-system-x86", "seabios")
	if err != nil {
		return nil, err
	}
	dir, err := c.get("qemu-"+key("qemu 1", files), func(dir string) error {
		if err := a.unpack(ctx, files, dir); err != nil {
			return err
		}
		return os.RemoveAll(dir + "/usr/share/doc")
	})
	return &qemu{dir: dir}, err
}

// command is the beginning of a command line, and the environment, that run QEMU without installing it: by its own loader, with its own
// libraries.
func (q *qemu) command() (args, env []string) {
	lib := filepath.Join(q.dir, "usr/lib/x86_64-linux-gnu")
	return []string{
		filepath.Join(q.dir, "usr/lib64/ld-linux-x86-64.so.2"), "--library-path", lib, filepath.Join(q.dir, "usr/bin/qemu-system-x86_64"),
		"-L", filepath.Join(q.dir, "usr/share/qemu"), "-L", filepath.Join(q.dir, "usr/share/seabios"),
	}, []string{
		"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "QEMU_MODULE_DIR=" + lib + "/qemu",
	}
}

// accelerator is what runs the guests' instructions, and the processor they see. Code that was translated is kept in so many MiB.
func accelerator(cpu string, translated int) ([]string, error) {
	switch how := os.Getenv("ZAP_VM_ACCEL"); how {
	case "", "tcg":
		if cpu == "" {
			cpu = "Nehalem"
		}
		return []string{"-accel", fmt.Sprintf("tcg,thread=multi,tb-size=%d", cmp.Or(translated, 128)), "-cpu", cpu}, nil
	case "kvm":
		if cpu == "" {
			cpu = "host"
		}
		return []string{"-accel", "kvm", "-cpu", cpu}, nil
	default:
		return nil, fmt.Errorf("ZAP_VM_ACCEL=%s: neither tcg nor kvm", how)
	}
}

// kernelWords is the kernel's command line. Mitigations cost much in emulation and protect nothing there.
func kernelWords(s Spec, number int) string {
	words := []string{
		"console=ttyS0", "quiet", "panic=-1", "net.ifnames=0", "mitigations=off", "no_timer_check", "tsc=reliable", "random.trust_cpu=on",
		"cryptomgr.notests", "zap.name=" + s.Name, fmt.Sprintf("zap.number=%d", number), "zap.cgroup=" + cmp.Or(s.Cgroup, "v2"),
		"zap.criu=" + cmp.Or(s.Criu, CriuTesting),
	}
	if len(s.Without) > 0 {
		words = append(words, "zap.without="+strings.Join(s.Without, ","))
	}
	if s.Cgroup == "v1" || s.Cgroup == "hybrid" {
		words = append(words, "cgroup_no_v1=none")
	}
	return strings.Join(words, " ")
}
