package spec_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zap-migrate/zap/spec"
)

// bundle writes a config.json into a new directory.
func bundle(t testing.TB, config []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func defaultJSON(t testing.TB) []byte {
	t.Helper()
	data, err := json.MarshalIndent(spec.Default(), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestLoad(t *testing.T) {
	dir := bundle(t, defaultJSON(t))
	b, err := spec.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if b.Dir != dir || b.Spec.Process.Args[0] != "sh" {
		t.Errorf("got %+v", b)
	}
	if got := b.RootPath(); got != filepath.Join(dir, "rootfs") {
		t.Errorf("RootPath is %s", got)
	}
	b.Spec.Root.Path = "/srv/../srv/x"
	if got := b.RootPath(); got != "/srv/x" {
		t.Errorf("RootPath is %s", got)
	}
	b.Spec.Root = nil
	if got := b.RootPath(); got != "" {
		t.Errorf("RootPath without a root is %q", got)
	}
}

func TestLoadRelative(t *testing.T) {
	dir := bundle(t, defaultJSON(t))
	t.Chdir(dir)
	for _, name := range []string{"", ".", "../" + filepath.Base(dir)} {
		b, err := spec.Load(name)
		if err != nil {
			t.Errorf("Load(%q): %v", name, err)
		} else if b.Dir != dir {
			t.Errorf("Load(%q).Dir is %s, want %s", name, b.Dir, dir)
		}
	}
}

func TestLoadErrors(t *testing.T) {
	for name, c := range map[string]struct{ config, want string }{
		"empty":       {"", "config.json: empty"},
		"not json":    {"{\n\"ociVersion\": \"1.0.0\",\n}", "config.json: line 3: invalid character '}'"},
		"wrong type":  {"{\n\"process\": {\"args\": \"sh\"}}", "config.json: process.args: line 2: string where a []string belongs"},
		"no object":   {"[]", "config.json: line 1: array where an object belongs"},
		"two objects": {`{"ociVersion": "1.0.0"} {}`, "config.json: line 1: invalid character '{' after top-level value"},
		"negative id": {`{"process": {"user": {"uid": -1}}}`, "config.json: process.user.uid: line 1: number -1 where a uint32 belongs"},
		"invalid":     {`{"ociVersion": "1.0.0", "root": {"path": "x"}}`, "config.json: process: missing"},
	} {
		dir := bundle(t, []byte(c.config))
		_, err := spec.Load(dir)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "read bundle "+dir) {
			t.Errorf("%s: says %v, want %s", name, err, c.want)
		}
	}
	if _, err := spec.Load(t.TempDir()); !os.IsNotExist(unwrapAll(err)) {
		t.Errorf("a missing file: %v", err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "config.json"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := spec.Load(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
}

func unwrapAll(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok || u.Unwrap() == nil || os.IsNotExist(err) {
			return err
		}
		err = u.Unwrap()
	}
}

func TestLoadIsBounded(t *testing.T) {
	dir := bundle(t, nil)
	if err := os.Truncate(filepath.Join(dir, "config.json"), 1<<40); err != nil {
		t.Skip("needs a file system with sparse files of 1 TiB: ", err)
	}
	if _, err := spec.Load(dir); err == nil || !strings.Contains(err.Error(), "larger than 16777216 bytes") {
		t.Errorf("a file of 1 TiB: %v", err)
	}
}

func TestUnknownFieldsAreIgnored(t *testing.T) {
	config := strings.Replace(string(defaultJSON(t)), "{", `{"org.example.future": {"x": [1]},`, 1)
	if _, err := spec.Load(bundle(t, []byte(config))); err != nil {
		t.Error(err)
	}
}

// FuzzLoad checks that no input makes Load panic, and that what it accepts it accepts again after a round trip.
func FuzzLoad(f *testing.F) {
	f.Add(defaultJSON(f))
	f.Add([]byte(`{"ociVersion":"1.0.0","process":{"args":["a"],"cwd":"/"},"root":{"path":"r"}}`))
	f.Add([]byte(`{"ociVersion":"1.0.0","process":{"args":["a"],"cwd":"/"},"root":{"path":"r"},"linux":{"resources":
		{"memory":{"limit":-1}},"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["x"],"action":"SCMP_ACT_LOG"}]}}}`))
	f.Add([]byte(`{"linux":{"uidMappings":[{"containerID":4294967295,"size":1}],"sysctl":{"":""},"netDevices":{"":{}}}}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, config []byte) {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := spec.Load(dir)
		if err != nil {
			if len(err.Error()) > 64<<10 {
				t.Errorf("the error is %d bytes long", len(err.Error()))
			}
			return
		}
		data, err := json.Marshal(b.Spec)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := spec.Parse(data); err != nil {
			t.Errorf("is valid, but not after a round trip: %v\n%s", err, data)
		}
		if len(b.Spec.Process.Args) == 0 || !filepath.IsAbs(b.RootPath()) {
			t.Error("is valid without arguments or root")
		}
	})
}
