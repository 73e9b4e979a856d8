/* The process that holds a pod's namespaces: it sleeps until it is told to end, and reaps what is given to it. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave(int signal)
{
    _exit(signal == SIGTERM || signal == SIGINT ? EXIT_SUCCESS : EXIT_FAILURE);
}

static void reap(int signal)
{
    (void)signal;
    while (waitpid(-1, NULL, WNOHANG) > 0) {
    }
}

int main(void)
{
    signal(SIGTERM, leave);
    signal(SIGINT, leave);
    signal(SIGCHLD, reap);
    for (;;)
        pause();
}
