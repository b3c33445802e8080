package validation

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/zap-migrate/zap/e2e/cell"
)

// programsDir has the built programs and, in the same place as they expect it, the archive of a root file system.
const programsDir = "../../build/validation"

// empty are directories that are empty while the tests run.
var empty = []string{"/run", "/run/lock", "/var/tmp", "/var/lib/zap"}

// besideEmpty refuses a checkout below one of them: the programs would be gone.
func besideEmpty() error {
	at, err := os.Getwd()
	if err != nil {
		return err
	}
	for _, dir := range empty {
		if strings.HasPrefix(at, dir+"/") {
			return fmt.Errorf("the checkout lies below %s, which is empty while these tests run: put it elsewhere", dir)
		}
	}
	return nil
}

func TestMain(m *testing.M) {
	var built string
	code := cell.Cell{
		Prepare: func() (err error) {
			if err = besideEmpty(); err == nil {
				err = buildPrograms()
			}
			if err == nil {
				err = nameLink()
			}
			if err == nil {
				built, err = cell.FindZap()
			}
			return err
		},
		Empty:       empty,
		Copies:      []string{"/var/lib", "/usr/local"},
		Zap:         cell.ZapVariable,
		Controllers: []string{"net_cls", "net_prio", "hugetlb"},
		Legacy:      true, // the programs look for version 2 first, and find nothing in it when the controllers are in version 1
	}.Run(m)
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

// linkVariable names a link of the host that is not the loopback, if there is one.
const linkVariable = "ZAP_VALIDATION_LINK"

// nameLink sets the variable. The network programs give priorities to the second link that they see, and the kernel looks for that name
// in the host's network namespace only: so the cell has a link of its own of that name.
func nameLink() error {
	links, err := net.Interfaces()
	if err == nil && len(links) > 1 {
		err = os.Setenv(linkVariable, links[1].Name)
	}
	return err
}

// buildPrograms builds the programs unless those that are there are of this module file and this Go.
func buildPrograms() error {
	modfile, err := filepath.Abs("../../.ci/validation.mod")
	if err != nil {
		return err
	}
	now, err := fingerprint(modfile)
	if err != nil {
		return err
	}
	stamp := filepath.Join(programsDir, "stamp")
	if was, err := os.ReadFile(stamp); err == nil && string(was) == now {
		return nil
	}
	if err := os.RemoveAll(programsDir); err != nil {
		return err
	}
	if err := os.MkdirAll(programsDir, 0o755); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-modfile="+modfile, "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-tags=netgo,osusergo",
		"-o", programsDir+"/", "tool")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the validation programs: %w: %s", err, out)
	}
	list := exec.Command("go", "list", "-modfile="+modfile, "-m", "-f", "{{.Dir}}", "github.com/opencontainers/runtime-tools")
	module, err := list.Output()
	if err != nil {
		return fmt.Errorf("find runtime-tools: %w", err)
	}
	archive := "rootfs-" + runtime.GOARCH + ".tar.gz"
	if err := copyFile(filepath.Join(string(module[:len(module)-1]), archive), filepath.Join(programsDir, archive)); err != nil {
		return err
	}
	return os.WriteFile(stamp, []byte(now), 0o644)
}

// fingerprint is what the programs are made of.
func fingerprint(modfile string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH)
	for _, name := range []string{modfile, modfile[:len(modfile)-len("mod")] + "sum"} {
		data, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		h.Write(data)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
