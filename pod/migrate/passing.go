package migrate

import (
	"errors"
	"strings"

	"github.com/zap-migrate/zap/criu"
)

// passing are CRIU's words for states of a pod that are over in a moment: a
// connection that nobody has accepted yet, an unread answer of the kernel.
var passing = []string{"In-flight connection", "The socket has data to read"}

// Passing says whether a move failed, before its commit, only because of a
// state of the pod that is over in a moment, so that it is worth another try.
func Passing(err error) bool {
	var aborted *AbortedError
	var cause *criu.Error
	if !errors.As(err, &aborted) || !errors.As(err, &cause) {
		return false
	}
	for _, words := range passing {
		if strings.Contains(cause.Cause, words) {
			return true
		}
	}
	return false
}
