package main

import (
	"fmt"
	"strings"
)

// subCgroups reads the values of --cgroup: one PATH, or some CONTROLLER[,CONTROLLER...]:PATH.
func subCgroups(values []string) (map[string]string, error) {
	if len(values) == 0 {
		return nil, nil
	}
	paths := map[string]string{}
	for _, v := range values {
		controllers, path, ok := strings.Cut(v, ":")
		if !ok {
			if len(values) > 1 {
				return nil, fmt.Errorf("invalid --cgroup argument: %s (missing <controller>: prefix)", v)
			}
			return map[string]string{"": v}, nil
		}
		for controller := range strings.SplitSeq(controllers, ",") {
			if controller == "" {
				return nil, fmt.Errorf("invalid --cgroup argument: %s (empty <controller> prefix)", v)
			}
			if _, twice := paths[controller]; twice {
				return nil, fmt.Errorf("invalid --cgroup argument(s): controller %s specified multiple times", controller)
			}
			paths[controller] = path
		}
	}
	return paths, nil
}
