package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/pod/migrate"
	"github.com/zap-migrate/zap/runtime"
)

func newPodCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pod",
		Short: "Run and manage pods: containers with an identity that can travel",
	}
	cmd.AddCommand(
		newPodRunCommand(g), newPodListCommand(g), newPodInspectCommand(g), newPodExecCommand(g), newPodLogsCommand(g),
		newPodAttachCommand(g), newPodWaitCommand(g), newPodRemoveCommand(g),
	)
	return cmd
}

// formatFlag adds --format with the words that a verb knows.
func formatFlag(cmd *cobra.Command, format *string, usage string) {
	cmd.Flags().StringVarP(format, "format", "f", "table", usage)
}

// podView is what list and inspect show of a pod.
type podView struct {
	Name      string    `json:"name"`
	Status    string    `json:"status"`
	Pid       int       `json:"pid"`
	Created   time.Time `json:"created"`
	Addresses []string  `json:"addresses"`
	MAC       string    `json:"mac,omitempty"`
	Command   []string  `json:"command"`
	ExitCode  *int      `json:"exit_code,omitempty"`
	Moves     int       `json:"moves"`
	From      string    `json:"from,omitempty"`

	Supervised bool           `json:"-"`                 // made by zap pod run, or arrived by a move
	Record     *pod.Record    `json:"record,omitempty"`  // inspect only
	State      *runtime.State `json:"state,omitempty"`   // inspect only
	Dir        string         `json:"dir,omitempty"`     // inspect only
	Cgroup     string         `json:"cgroup,omitempty"`  // inspect only
	Log        string         `json:"log,omitempty"`     // inspect only
	Netns      string         `json:"network,omitempty"` // inspect only: path of the namespace while the pod runs
}

func viewPod(p *pod.Pod) podView {
	state := p.State()
	v := podView{
		Name: p.ID(), Status: string(p.Status()), Pid: state.Pid, Created: state.Created, Addresses: []string{},
		Moves: p.Record.Moves, From: p.Record.From, Supervised: p.Supervised(),
	}
	if m, err := moveOf(p.Dir()); err == nil && m != nil && m.phase != migrate.Aborted { // the pod goes on, only the target has to hear of it
		v.Status = m.status
	}
	if p.Status() == pod.StatusStopped {
		v.Pid = 0
	}
	if p.Record.Exit != nil {
		v.ExitCode = &p.Record.Exit.Code
	}
	if state.Bundle != nil && state.Bundle.Spec.Process != nil {
		v.Command = state.Bundle.Spec.Process.Args
	}
	if n := p.Record.Network; n != nil {
		v.MAC = n.MAC
		for _, a := range n.Addresses {
			v.Addresses = append(v.Addresses, a.String())
		}
	}
	return v
}

func newPodListCommand(g *globals) *cobra.Command {
	var format string
	var quiet bool
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls", "ps"}, Short: "List the pods of this host", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			views, err := listPods(g)
			if err != nil {
				return err
			}
			switch {
			case quiet:
				for _, v := range views {
					fmt.Println(v.Name)
				}
				return nil
			case format == "json":
				return writeJSON(os.Stdout, views)
			case format == "table":
				return podTable(os.Stdout, views)
			}
			return fmt.Errorf("flag --format: %q is neither table nor json", format)
		},
	}
	formatFlag(cmd, &format, "table or json")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only the names")
	return cmd
}

func listPods(g *globals) ([]podView, error) {
	rt := runtime.New(g.root, g.log)
	all, err := rt.List()
	if err != nil {
		g.log.Warn("list pods", "error", err.Error()) // of those that can't be read; the others are listed
	}
	views, err := arrivingPods(rt)
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	for _, c := range all {
		p, err := pod.Load(rt, c.ID())
		if err != nil {
			g.log.Warn("list pods", "pod", c.ID(), "error", err.Error())
			continue
		}
		views = append(views, viewPod(p))
	}
	slices.SortFunc(views, func(a, b podView) int { return strings.Compare(a.Name, b.Name) })
	return append([]podView{}, views...), nil // an empty list, not null, in JSON
}

func podTable(out io.Writer, views []podView) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATUS\tPID\tADDRESS\tCREATED\tMOVES\tCOMMAND")
	for _, v := range views {
		address, command, status := "-", "-", v.Status
		if len(v.Addresses) > 0 {
			address = v.Addresses[0]
		}
		if len(v.Command) > 0 {
			command = v.Command[0]
		}
		if v.ExitCode != nil {
			status = fmt.Sprintf("%s (%d)", v.Status, *v.ExitCode)
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%d\t%s\n", v.Name, status, v.Pid, address,
			v.Created.Local().Format("2006-01-02 15:04:05"), v.Moves, command)
	}
	return w.Flush()
}

func writeJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func newPodInspectCommand(g *globals) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "inspect POD", Short: "Print everything that is known of a pod", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := pod.Load(runtime.New(g.root, g.log), args[0])
			if err != nil {
				return err
			}
			v := viewPod(p)
			v.Record, v.State, v.Dir = &p.Record, p.State(), p.Dir()
			v.Cgroup, v.Log = p.State().CgroupPath, pod.LogPath(p.Dir())
			if v.Pid > 0 {
				v.Netns = fmt.Sprintf("/proc/%d/ns/net", v.Pid)
			}
			return writeJSON(os.Stdout, v)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "json", "json")
	return cmd
}
