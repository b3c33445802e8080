package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ConfigName is the name of the file in a bundle that holds its specification.
const ConfigName = "config.json"

// MaxConfigSize is the largest config.json that Load reads, in bytes. The kernel could not run what needs more.
const MaxConfigSize = 16 << 20

// Bundle is an OCI bundle: a directory and the specification read from its config.json.
type Bundle struct {
	// Dir is the absolute path of the bundle; relative paths in Spec start here.
	Dir string `json:"dir"`
	// Spec is the content of config.json, as it was read.
	Spec *specs.Spec `json:"spec"`
	// Overlay, when set, is mounted as the container's root file system inside its own mount namespace; Spec.Root.Path
	// then only serves as the place to mount it on.
	Overlay *Overlay `json:"overlay,omitempty"`
}

// Overlay describes an overlay file system. All paths are absolute paths on the host.
type Overlay struct {
	// Lower are the read-only layers, the topmost first, as the mount option lowerdir has them.
	Lower []string `json:"lower"`
	// Upper is the directory that takes all changes.
	Upper string `json:"upper"`
	// Work is overlayfs' own working directory, on the same file system as Upper.
	Work string `json:"work"`
}

// Load reads and validates the bundle in directory dir ("" is the current directory). The error of a wrong
// config.json names the place in it, as Validate's does.
func Load(dir string) (*Bundle, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("resolve bundle %s: %w", dir, err)
	}
	data, err := readBounded(filepath.Join(abs, ConfigName), MaxConfigSize)
	if err != nil {
		return nil, fmt.Errorf("read bundle %s: %w", abs, err)
	}
	s, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("read bundle %s: %w", abs, err)
	}
	b := &Bundle{Dir: abs, Spec: s}
	b.takeRootOff()
	return b, nil
}

// Parse decodes and validates the content of a config.json. Fields that the OCI specification does not know are
// ignored, as it demands; anything behind the object is an error.
func Parse(data []byte) (*specs.Spec, error) {
	s := new(specs.Spec)
	if err := explain(data, unmarshalSpec(data, s)); err != nil {
		return nil, fmt.Errorf("%s: %w", ConfigName, err)
	}
	if err := Validate(s); err != nil {
		return nil, err
	}
	return s, nil
}

// RootPath returns the absolute path of the container's root file system on the host, or "" when the specification
// names none.
func (b *Bundle) RootPath() string {
	if b.Spec == nil || b.Spec.Root == nil || b.Spec.Root.Path == "" {
		return ""
	}
	if filepath.IsAbs(b.Spec.Root.Path) {
		return filepath.Clean(b.Spec.Root.Path)
	}
	return filepath.Join(b.Dir, b.Spec.Root.Path)
}

// readBounded reads a regular file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("open %s: not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: larger than %d bytes", path, limit)
	}
	return data, nil
}

// explain makes an error of json.Unmarshal say where: by line for bad syntax, by field for a wrong type.
func explain(data []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case len(bytes.TrimSpace(data)) == 0:
		return errors.New("empty")
	case errors.As(err, &syntax):
		return fmt.Errorf("line %d: %w", lineOf(data, syntax.Offset), err)
	case errors.As(err, &kind) && kind.Field != "":
		return fmt.Errorf("%s: line %d: %s where a %s belongs", kind.Field, lineOf(data, kind.Offset), kind.Value, kind.Type)
	case errors.As(err, &kind):
		return fmt.Errorf("line %d: %s where an object belongs", lineOf(data, kind.Offset), kind.Value)
	}
	return err
}

// lineOf returns the line, counted from 1, of a byte offset in data.
func lineOf(data []byte, offset int64) int {
	offset = min(max(offset, 0), int64(len(data)))
	return 1 + bytes.Count(data[:offset], []byte{'\n'})
}
