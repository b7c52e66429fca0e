/* The least that a libmilter filter can do: it receives everything and passes everything. */
#include <libmilter/mfapi.h>
#include <stdio.h>
#include <stdlib.h>

static sfsistat on_connect(SMFICTX *c, char *h, _SOCK_ADDR *a) { (void)c; (void)h; (void)a; return SMFIS_CONTINUE; }
static sfsistat on_text(SMFICTX *c, char *t) { (void)c; (void)t; return SMFIS_CONTINUE; }
static sfsistat on_path(SMFICTX *c, char **p) { (void)c; (void)p; return SMFIS_CONTINUE; }
static sfsistat on_header(SMFICTX *c, char *n, char *v) { (void)c; (void)n; (void)v; return SMFIS_CONTINUE; }
static sfsistat on_step(SMFICTX *c) { (void)c; return SMFIS_CONTINUE; }
static sfsistat on_body(SMFICTX *c, unsigned char *b, size_t n) { (void)c; (void)b; (void)n; return SMFIS_CONTINUE; }

int main(int argc, char **argv)
{
    struct smfiDesc filter = {
        .xxfi_name = "null",
        .xxfi_version = SMFI_VERSION,
        .xxfi_connect = on_connect,
        .xxfi_helo = on_text,
        .xxfi_envfrom = on_path,
        .xxfi_envrcpt = on_path,
        .xxfi_header = on_header,
        .xxfi_eoh = on_step,
        .xxfi_body = on_body,
        .xxfi_eom = on_step,
    };
    if (argc != 2) {
        fprintf(stderr, "usage: null_milter inet:PORT@127.0.0.1\n");
        return 2;
    }
    if (smfi_setconn(argv[1]) == MI_FAILURE || smfi_register(filter) == MI_FAILURE)
        return EXIT_FAILURE;
    return smfi_main() == MI_SUCCESS ? EXIT_SUCCESS : EXIT_FAILURE;
}
