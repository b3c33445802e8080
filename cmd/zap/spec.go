package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/spec"
)

// newSpecCommand writes a config.json to start from, with runc's flags and content.
func newSpecCommand(*globals) *cobra.Command {
	var bundle string
	var rootless bool
	cmd := &cobra.Command{
		Use:   "spec",
		Short: "Write a config.json to start from into a bundle",
		Long: `Write config.json with everything a container usually has: a shell on a terminal as its
program, rootfs as its root file system, namespaces of its own and a few capabilities.
An existing config.json is never overwritten.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return writeSpec(bundle, rootless)
		},
	}
	cmd.Flags().StringVarP(&bundle, "bundle", "b", ".", "bundle to write into")
	cmd.Flags().BoolVar(&rootless, "rootless", false, "write what a user without privileges can run")
	return cmd
}

func writeSpec(bundle string, rootless bool) error {
	s := spec.Default()
	if rootless {
		spec.ToRootless(s)
	}
	data, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return fmt.Errorf("encode %s: %w", spec.ConfigName, err)
	}
	path := filepath.Join(bundle, spec.ConfigName)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write %s: it exists; remove it first", path)
	}
	if err != nil {
		return fmt.Errorf("write spec: %w", err)
	}
	if _, err = f.Write(data); err == nil {
		err = f.Close()
	} else {
		_ = f.Close()
	}
	if err != nil {
		_ = os.Remove(path)
		return fmt.Errorf("write spec: %w", err)
	}
	return nil
}
