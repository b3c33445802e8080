package main

import (
	"embed"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// engineFiles are what has to be said to engines so that they know zap. They name zap as installedPath.
//
//go:embed engines
var engineFiles embed.FS

// installedPath is where `make install` puts zap.
const installedPath = "/usr/local/bin/zap"

// engineFile is the file of engineFiles for each engine.
var engineFile = map[string]string{"podman": "engines/podman.conf", "containerd": "engines/containerd.toml"}

func newInstallConfigCommand(*globals) *cobra.Command {
	var engine string
	cmd := &cobra.Command{
		Use:   "install-config --print ENGINE",
		Short: "Print what podman or containerd must be told to use zap",
		Long: `Print what podman or containerd must be told to use zap, with the path of this zap.

For podman it is a file of its own, for containerd a part of its configuration:

  mkdir -p /etc/containers/containers.conf.d
  zap install-config --print podman > /etc/containers/containers.conf.d/50-zap.conf
  zap install-config --print containerd >> /etc/containerd/config.toml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find the path of zap: %w", err)
			}
			text, err := engineConfig(engine, self)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	cmd.Flags().StringVar(&engine, "print", "", "engine to print for: podman or containerd")
	_ = cmd.MarkFlagRequired("print")
	return cmd
}

// engineConfig is what the engine must be told to use the zap at path.
func engineConfig(engine, path string) (string, error) {
	name, known := engineFile[engine]
	if !known {
		return "", fmt.Errorf("flag --print: %q is neither podman nor containerd", engine)
	}
	if strings.ContainsAny(path, "\"\\\n") {
		return "", fmt.Errorf("print configuration for %s: the path %q can't be written in TOML as it is; install zap elsewhere", engine, path)
	}
	text, err := engineFiles.ReadFile(name)
	if err != nil {
		return "", err
	}
	return strings.ReplaceAll(string(text), installedPath, path), nil
}
