/* The counted functions, once for each form; see pmpicount.c. F suffix, N type of counts, D type of displacements. */

#define SEND_FORM(F, N, D)                                                                                                     \
    int MPI_Send##F(const void *buf, N n, MPI_Datatype type, int dest, int tag, MPI_Comm comm)                                 \
    {                                                                                                                          \
        count(SEND, n, type);                                                                                                  \
        return PMPI_Send##F(buf, n, type, dest, tag, comm);                                                                    \
    }
BOTH_FORMS(SEND_FORM)
#undef SEND_FORM

#define ISEND_FORM(F, N, D)                                                                                                    \
    int MPI_Isend##F(const void *buf, N n, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request *request)          \
    {                                                                                                                          \
        count(ISEND, n, type);                                                                                                 \
        return PMPI_Isend##F(buf, n, type, dest, tag, comm, request);                                                          \
    }
BOTH_FORMS(ISEND_FORM)
#undef ISEND_FORM

#define BCAST_FORM(F, N, D)                                                                                                    \
    int MPI_Bcast##F(void *buf, N n, MPI_Datatype type, int root, MPI_Comm comm)                                               \
    {                                                                                                                          \
        count(BCAST, is_root(root, comm) ? n : 0, type);                                                                       \
        return PMPI_Bcast##F(buf, n, type, root, comm);                                                                        \
    }
BOTH_FORMS(BCAST_FORM)
#undef BCAST_FORM

#define GATHER_FORM(F, N, D)                                                                                                   \
    int MPI_Gather##F(const void *buf, N n, MPI_Datatype type, void *all, N m, MPI_Datatype kind, int root, MPI_Comm comm)     \
    {                                                                                                                          \
        count(GATHER, n, type);                                                                                                \
        return PMPI_Gather##F(buf, n, type, all, m, kind, root, comm);                                                         \
    }
BOTH_FORMS(GATHER_FORM)
#undef GATHER_FORM

#define GATHERV_FORM(F, N, D)                                                                                                  \
    int MPI_Gatherv##F(const void *buf, N n, MPI_Datatype type, void *all, const N ms[], const D at[], MPI_Datatype kind,      \
                       int root, MPI_Comm comm)                                                                                \
    {                                                                                                                          \
        count(GATHERV, n, type);                                                                                               \
        return PMPI_Gatherv##F(buf, n, type, all, ms, at, kind, root, comm);                                                   \
    }
BOTH_FORMS(GATHERV_FORM)
#undef GATHERV_FORM

#define SCATTERV_FORM(F, N, D)                                                                                                 \
    int MPI_Scatterv##F(const void *all, const N ns[], const D at[], MPI_Datatype type, void *buf, N m, MPI_Datatype kind,     \
                        int root, MPI_Comm comm)                                                                               \
    {                                                                                                                          \
        long long sum = 0;                                                                                                     \
        int size;                                                                                                              \
        PMPI_Comm_size(comm, &size);                                                                                           \
        for (int rank = 0; rank < size && is_root(root, comm); rank++)                                                         \
            sum += ns[rank];                                                                                                   \
        count(SCATTERV, sum, type);                                                                                            \
        return PMPI_Scatterv##F(all, ns, at, type, buf, m, kind, root, comm);                                                  \
    }
BOTH_FORMS(SCATTERV_FORM)
#undef SCATTERV_FORM

#define ALLREDUCE_FORM(F, N, D)                                                                                                \
    int MPI_Allreduce##F(const void *buf, void *out, N n, MPI_Datatype type, MPI_Op op, MPI_Comm comm)                         \
    {                                                                                                                          \
        count(ALLREDUCE, n, type);                                                                                             \
        return PMPI_Allreduce##F(buf, out, n, type, op, comm);                                                                 \
    }
BOTH_FORMS(ALLREDUCE_FORM)
#undef ALLREDUCE_FORM

/* What mpicomp never calls: seen, it would go uncounted. */
#define REFUSED(F, NAME, PARAMETERS)                                                                                           \
    int MPI_##NAME##F PARAMETERS                                                                                               \
    {                                                                                                                          \
        fprintf(stderr, "pmpicount: MPI_%s is not counted\n", #NAME);                                                          \
        abort();                                                                                                               \
    }
#define SENDS_FORM(F, N, D)                                                                                                    \
    REFUSED(F, Ssend, (const void *b, N n, MPI_Datatype t, int d, int g, MPI_Comm c))                                          \
    REFUSED(F, Bsend, (const void *b, N n, MPI_Datatype t, int d, int g, MPI_Comm c))                                          \
    REFUSED(F, Rsend, (const void *b, N n, MPI_Datatype t, int d, int g, MPI_Comm c))                                          \
    REFUSED(F, Issend, (const void *b, N n, MPI_Datatype t, int d, int g, MPI_Comm c, MPI_Request *r))                         \
    REFUSED(F, Send_init, (const void *b, N n, MPI_Datatype t, int d, int g, MPI_Comm c, MPI_Request *r))                      \
    REFUSED(F, Scatter, (const void *b, N n, MPI_Datatype t, void *o, N m, MPI_Datatype k, int r, MPI_Comm c))                 \
    REFUSED(F, Allgather, (const void *b, N n, MPI_Datatype t, void *o, N m, MPI_Datatype k, MPI_Comm c))                      \
    REFUSED(F, Alltoall, (const void *b, N n, MPI_Datatype t, void *o, N m, MPI_Datatype k, MPI_Comm c))                       \
    REFUSED(F, Reduce, (const void *b, void *o, N n, MPI_Datatype t, MPI_Op p, int r, MPI_Comm c))                             \
    REFUSED(F, Ibcast, (void *b, N n, MPI_Datatype t, int r, MPI_Comm c, MPI_Request *q))                                      \
    REFUSED(F, Igather, (const void *b, N n, MPI_Datatype t, void *o, N m, MPI_Datatype k, int r, MPI_Comm c, MPI_Request *q)) \
    REFUSED(F, Allgatherv, (const void *b, N n, MPI_Datatype t, void *o, const N m[], const D a[], MPI_Datatype k, MPI_Comm c))
BOTH_FORMS(SENDS_FORM)
#undef SENDS_FORM
#undef REFUSED
