// Package pages is the page channel: it carries the memory that CRIU dumps from one host to the images that CRIU restores on another.
//
// On the source a [Sender] hands CRIU one end of a socket pair as its page server (RPC option ps.fd), answers CRIU's protocol there and
// sends the pages over a [stream.Conn]. On the target [Receive] writes the pagemap and pages images into a directory, meant to be on
// tmpfs, as CRIU itself would have.
//
// [Rounds] sends memory ahead while the pod runs, and remembers what it sent ([Shadow]): by a hash of each page, or where the kernel tracks
// what is written to, by the frame that it lay in; CRIU then hands over only what has changed. [ReceiveRounds] writes it where CRIU looks for the images of an
// earlier dump, so that in the pause only what is different goes over, and nothing is copied on the target.
//
// What is said on the connection: JSON begin; in rounds a JSON plan for each process (its mappings, whose pages have their places in one
// sparse image) and frames of pages with their addresses, else batches of CRIU's own commands; JSON end; and the target's JSON done.  No page touches a disk, CRIU opens no port, and the memory this takes is a few
// megabytes whatever the size of the pod.
package pages
