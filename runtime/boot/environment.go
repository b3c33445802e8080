package boot

import (
	"slices"
	"strings"
)

// finalEnvironment is the environment that a program gets: of a variable that is set more than once only the last setting, because programs
// differ in which of them they see, and HOME, where that is missing or empty and there is a home.
func finalEnvironment(env []string, home string) []string {
	out := make([]string, 0, len(env)+1)
	seen := make(map[string]bool, len(env))
	for _, variable := range slices.Backward(env) {
		name, _, _ := strings.Cut(variable, "=")
		if !seen[name] {
			out = append(out, variable)
		}
		seen[name] = true
	}
	slices.Reverse(out)
	if home != "" && environment(out, "HOME") == "" {
		out = slices.DeleteFunc(out, func(variable string) bool { return variable == "HOME=" })
		out = append(out, "HOME="+home)
	}
	return out
}
