package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
)

// Place is where a process of a container goes: the group itself, or groups below it.
type Place struct {
	// Tasks are the files of v1 that the process writes "0" into to enter, as TaskFiles.
	Tasks []string
	// Unified is the directory in the v2 tree that it is born into, as UnifiedDir.
	Unified string
}

// JoinFiles returns the files that a process writes "0" into when it is not born into the v2 directory, as Cgroup.JoinFiles.
func (p Place) JoinFiles() []string {
	if p.Unified == "" {
		return p.Tasks
	}
	return append(append([]string(nil), p.Tasks...), p.Unified+"/cgroup.procs")
}

// Place returns where in the group a process goes. below are paths from the group on, by controller; that of "" is for the v2 tree or,
// on a host with controllers on v1, for all hierarchies that have none of their own. The groups need not be there.
func (c *Cgroup) Place(below map[string]string) (Place, error) {
	for controller := range below {
		if c.tree(controller) == nil && controller != "" {
			return Place{}, fmt.Errorf("unknown controller %s in the path of a sub cgroup", controller)
		}
	}
	var p Place
	for _, h := range c.trees {
		sub := below[""]
		for _, name := range h.names {
			if s, ok := below[name]; ok {
				sub = s
			}
		}
		dir := path.Join(c.dir(h), sub)
		if dir != c.dir(h) && !strings.HasPrefix(dir, c.dir(h)+"/") {
			return Place{}, fmt.Errorf("bad sub cgroup path: %s", sub)
		}
		if h.unified {
			p.Unified = dir
		} else {
			p.Tasks = append(p.Tasks, dir+"/tasks")
		}
	}
	return p, nil
}

// UnifiedDirOf returns the directory in the v2 tree of the group that process pid is in.
func UnifiedDirOf(pid int) (string, error) {
	all, err := host()
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if at, ok := strings.CutPrefix(line, "0::/"); ok {
			for _, h := range all {
				if h.unified {
					return path.Join(h.mount, at), nil
				}
			}
		}
	}
	return "", errors.New("process " + strconv.Itoa(pid) + " is in no group of cgroup v2")
}
