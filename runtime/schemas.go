package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// resctrl is where hosts with Intel RDT have its file system (Documentation/filesystems/resctrl.rst).
const resctrl = "/sys/fs/resctrl"

// schemas is a change of a container's share of cache and memory bandwidth.
type schemas struct {
	file   string
	lines  []string
	config *specs.LinuxIntelRdt // with the change
}

// planSchemas checks a change of schemas; nil when there is none. The texts of its errors are those that runc has.
func planSchemas(config *specs.LinuxIntelRdt, id string, l Limits) (*schemas, error) {
	if l.L3CacheSchema == "" && l.MemBwSchema == "" {
		return nil, nil
	}
	if _, err := os.Stat(resctrl + "/info/L3"); err != nil && l.L3CacheSchema != "" {
		//lint:ignore ST1005 callers know the text
		return nil, errors.New("Intel RDT/CAT: l3 cache schema is not enabled")
	}
	if _, err := os.Stat(resctrl + "/info/MB"); err != nil && l.MemBwSchema != "" {
		//lint:ignore ST1005 callers know the text
		return nil, errors.New("Intel RDT/MBA: memory bandwidth schema is not enabled")
	}
	if config == nil {
		return nil, errors.New("updating a non-existent Intel RDT configuration is not supported")
	}
	after := *config
	s := &schemas{config: &after, lines: []string{}}
	if l.L3CacheSchema != "" {
		after.L3CacheSchema = l.L3CacheSchema
		s.lines = append(s.lines, l.L3CacheSchema)
	}
	if l.MemBwSchema != "" {
		after.MemBwSchema = l.MemBwSchema
		s.lines = append(s.lines, l.MemBwSchema)
	}
	group := id
	if config.ClosID != "" {
		group = config.ClosID
	}
	s.file = filepath.Join(resctrl, group, "schemata")
	return s, nil
}

// write hands the change to the kernel, which tells what it did not like in another file.
func (s *schemas) write() error {
	if s == nil {
		return nil
	}
	err := os.WriteFile(s.file, []byte(strings.Join(s.lines, "\n")+"\n"), 0o600)
	if err == nil {
		return nil
	}
	if why, rerr := os.ReadFile(resctrl + "/info/last_cmd_status"); rerr == nil {
		return fmt.Errorf("set schemas: %w: %s", err, strings.TrimSpace(string(why)))
	}
	return fmt.Errorf("set schemas: %w", err)
}
