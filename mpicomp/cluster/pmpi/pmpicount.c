/* Counts what a program hands to MPI: an independent witness for mpicomp's ledger, loaded by LD_PRELOAD.
 *
 *     mpicc -O2 -shared -fPIC -o libpmpicount.so pmpicount.c
 *     PMPICOUNT=/tmp/count mpirun -n 4 env LD_PRELOAD=$PWD/libpmpicount.so python program.py
 *
 * `mpicomp run --verify-bytes` builds it, loads it and asks for the counts (witness.py). Where PMPICOUNT is set, each rank writes them
 * to PMPICOUNT.RANK at MPI_Finalize, a line for each purpose and function: "purpose function calls bytes". The purpose is
 * the number last given to pmpicount_purpose. Handed over are: the buffer of a send, the root's buffer of a broadcast or
 * scatter, each rank's contribution to a gather or a reduction, nothing for a barrier. Functions that mpicomp does not call
 * are not counted but end the program, so that nothing passes unseen.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#if defined(EXPECT_OPEN_MPI) && EXPECT_OPEN_MPI != defined(OPEN_MPI)
#error "this mpi.h belongs to another MPI than the one that mpi4py loads"
#endif

enum function { SEND, ISEND, BCAST, GATHER, GATHERV, SCATTERV, ALLREDUCE, BARRIER, FUNCTIONS };
enum { PURPOSES = 256 };

static const char *const names[FUNCTIONS] = {"Send", "Isend", "Bcast", "Gather", "Gatherv", "Scatterv", "Allreduce", "Barrier"};
static long long calls[PURPOSES][FUNCTIONS], bytes[PURPOSES][FUNCTIONS];
static int purpose;

static void count(enum function f, long long elements, MPI_Datatype type)
{
    int size = 0;
    if (elements)
        PMPI_Type_size(type, &size);
    calls[purpose][f] += 1;
    bytes[purpose][f] += elements * size;
}

static int is_root(int root, MPI_Comm comm)
{
    int rank;
    PMPI_Comm_rank(comm, &rank);
    return rank == root;
}

/* What follows is counted for this purpose. (mpi4py lets only levels up to 2 through to MPI_Pcontrol.) */
void pmpicount_purpose(int number)
{
    if (number < 0 || number >= PURPOSES)
        abort();
    purpose = number;
}

int pmpicount_functions(void) { return FUNCTIONS; }
const char *pmpicount_name(int f) { return names[f]; }
long long pmpicount_calls(int p, int f) { return calls[p][f]; }
long long pmpicount_bytes(int p, int f) { return bytes[p][f]; }

int MPI_Finalize(void)
{
    if (!getenv("PMPICOUNT"))
        return PMPI_Finalize();
    char path[4096];
    int rank;
    PMPI_Comm_rank(MPI_COMM_WORLD, &rank);
    snprintf(path, sizeof path, "%s.%d", getenv("PMPICOUNT"), rank);
    FILE *file = fopen(path, "w");
    if (!file)
        abort();
    for (int p = 0; p < PURPOSES; p++)
        for (int f = 0; f < FUNCTIONS; f++)
            if (calls[p][f])
                fprintf(file, "%d %s %lld %lld\n", p, names[f], calls[p][f], bytes[p][f]);
    fclose(file);
    return PMPI_Finalize();
}

int MPI_Barrier(MPI_Comm comm)
{
    count(BARRIER, 0, MPI_BYTE);
    return PMPI_Barrier(comm);
}

/* Every function in two forms: the one with int counts, and from MPI 4 on the one with large counts, which mpi4py prefers. */
#define BOTH_FORMS(COUNTED) COUNTED(, int, int)
#include "functions.h"
#if MPI_VERSION >= 4
#undef BOTH_FORMS
#define BOTH_FORMS(COUNTED) COUNTED(_c, MPI_Count, MPI_Aint)
#include "functions.h"
#endif
