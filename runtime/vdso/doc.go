// Package vdso freezes programs at moments in which none of their threads executes code of the vDSO, the library that the kernel maps into each
// process (vdso(7)).
//
// CRIU gives a restored process the vDSO of the kernel that it is restored on. Where that is another one, it redirects calls from the old one to the new
// one, at the old one's entry points. A thread that was stopped in the middle finds other code at its instruction pointer, or none, and the program is lost.
// Programs that look at the clock all the time are in there often.
//
// The handler of a signal that came in the vDSO is going to return there, so the stacks are searched for the frames of such signals. Threads whose preemption is asked
// for by signals, as Go's, are found in a handler more often than elsewhere once they have been stopped.
package vdso
