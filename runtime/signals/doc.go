// Package signals catches this process's signals for another process, all of them from the first moment on.
//
// To ask package os/signal for a signal takes two switches between threads, and there are sixty: that is a tenth of the time that a short
// container takes. Here a handler of a few instructions is installed by rt_sigaction(2), which takes less than a microsecond. It writes the
// signal's number into a pipe, so that none gets lost and their order is kept, and what reads the pipe can wait for something else as well.
package signals
