package pod

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// ReadExit says how the program of the pod in dir ended, if it has.
func ReadExit(dir string) (code int, ok bool) {
	data, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil {
		return 0, false
	}
	var state struct {
		Pod Record `json:"pod"`
	}
	if json.Unmarshal(data, &state) != nil || state.Pod.Exit == nil {
		return 0, false
	}
	return state.Pod.Exit.Code, true
}
