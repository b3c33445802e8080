package main

import (
	"encoding/json"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/runtime"
)

// containerView is a container as state and list print it; the fields and their order are runc's.
type containerView struct {
	Version     string               `json:"ociVersion"`
	ID          string               `json:"id"`
	Pid         int                  `json:"pid"`
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
	OOMKilled   bool                 `json:"oomKilled,omitempty"` // zap's own
}

func viewContainer(c *runtime.Container) containerView {
	s, oci := c.State(), c.OCIState()
	return containerView{
		Version: oci.Version, ID: s.ID, Pid: oci.Pid, Status: oci.Status, Bundle: s.Bundle.Dir, Rootfs: s.Bundle.RootPath(),
		Created: s.Created, Annotations: s.Annotations, Owner: s.Owner,
	}
}

func newStateCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "state CONTAINER",
		Short: "Print the state of a container as JSON",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := runtime.New(g.root, g.log).Load(args[0])
			if err != nil {
				return err
			}
			out := json.NewEncoder(cmd.OutOrStdout())
			out.SetIndent("", "  ")
			out.SetEscapeHTML(false)
			view := viewContainer(c)
			if cg, err := c.Cgroup(); err == nil {
				kills, err := cg.OOMKills()
				view.OOMKilled = err == nil && kills > 0
			}
			return out.Encode(view)
		},
	}
}
