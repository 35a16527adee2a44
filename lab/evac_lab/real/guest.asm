; A guest that proves on its own disk when it ran, and so whether it ever ran twice.
;
; It needs 4 MiB of memory and one disk on any bus that the BIOS can boot: all disk access goes
; through BIOS calls. About four times a second it writes one record, one sector, to a ring on the
; disk and one line to the first serial port.
;
; Sectors:  0      this boot sector
;           1-7    the rest of this program
;           8      head: magic "EVHD", number of the next record (4 bytes), nonce of the last writer (8)
;           9      mailbox: magic "EVMB", number of the message (4), letter (1); written from outside
;           64-    the ring; record N is in sector 64 + N mod RING
; Record:   0 "EVHB"  4 number  8 counter of this incarnation  12 nonce (8)  20 instance uuid (16)
;           36 real-time clock, BCD: century year month day hour minute second  43 flags (1: another
;           incarnation wrote since our last record)
;
; One letter on the serial port or in the mailbox:  p power off  c crash (pvpanic)  r reset
; h hang  i ignore the power button from now on

        bits 16
        cpu 586
        org 0x7c00

RING        equ 8128            ; half an hour; 64 + 8128 sectors are 4 MiB
RING_START  equ 64
HEAD        equ 8
MAILBOX     equ 9
TICKS       equ 4               ; of the BIOS clock, 18.2 a second: 0.22 s
COM1        equ 0x3f8
PM1_STATUS  equ 0x600           ; where SeaBIOS puts ACPI's power management block
POWER_BUTTON equ 0x100
PVPANIC     equ 0x505
FW_CFG      equ 0x510

buffer      equ 0x9000          ; one sector: the record, or what was read
stack_top   equ 0x7c00

start:
        cli
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, stack_top
        sti
        cld
        mov     [drive], dl
        mov     dword [lba], 1
        mov     word [address], 0x7e00
        mov     word [count], 7
        mov     ah, 0x42
        call    disk
        jmp     main

; BIOS disk call AH (0x42 read, 0x43 write) with the packet. Tries until it works: a disk that
; hangs or fails now may work later, and there is nobody to tell.
disk:
        push    ax
        mov     al, 0
        mov     dl, [drive]
        mov     si, packet
        int     0x13
        pop     ax
        jc      disk
        ret

        align   4
packet: db      16, 0
count:  dw      1
address: dw     buffer
        dw      0
lba:    dd      0, 0
drive:  db      0

        times   510 - ($ - $$) db 0
        dw      0xaa55

; ------------------------------------------------------------------ from sector 1: at 0x7e00
main:
        mov     word [count], 1
        mov     word [address], buffer

        mov     dx, FW_CFG              ; the uuid: item 2 of QEMU's configuration device
        mov     ax, 2
        out     dx, ax
        inc     dx
        mov     di, uuid
        mov     cx, 16
        rep     insb

        rdtsc                           ; the nonce: nanoseconds since power-on, and the time of day
        mov     [nonce], eax
        mov     [nonce + 4], edx
        call    read_clock
        mov     eax, [clock + 3]        ; day, hour, minute, second
        xor     [nonce + 4], eax
        in      al, 0x40                ; and the phase of the interval timer
        xor     [nonce + 4], al

        mov     dx, PM1_STATUS + 2      ; the button shows in the status only when it is enabled
        mov     ax, POWER_BUTTON
        out     dx, ax

        mov     dword [lba], MAILBOX    ; what is in the mailbox now was for somebody before us
        mov     ah, 0x42
        call    disk
        mov     eax, [buffer + 4]
        mov     [mail_seen], eax

; ------------------------------------------------------------------ four times a second
tick:
        mov     dword [lba], HEAD
        mov     ah, 0x42
        call    disk
        xor     ecx, ecx                ; an empty disk begins with record 0
        mov     byte [flags], 0
        cmp     dword [buffer], 'EVHD'
        jne     .number_known
        mov     ecx, [buffer + 4]
        cmp     dword [counter], 0
        je      .number_known
        mov     eax, [buffer + 8]
        mov     edx, [buffer + 12]
        cmp     eax, [nonce]
        jne     .stranger
        cmp     edx, [nonce + 4]
        je      .number_known
.stranger:
        mov     byte [flags], 1
.number_known:
        mov     [number], ecx
        call    read_clock
        call    clear_buffer
        mov     si, record
        mov     di, buffer
        mov     cx, record_end - record
        rep     movsb
        mov     eax, [number]
        xor     edx, edx
        mov     ecx, RING
        div     ecx
        add     edx, RING_START
        mov     [lba], edx
        mov     ah, 0x43
        call    disk

        call    clear_buffer
        mov     dword [buffer], 'EVHD'
        mov     eax, [number]
        inc     eax
        mov     [buffer + 4], eax
        mov     eax, [nonce]
        mov     [buffer + 8], eax
        mov     eax, [nonce + 4]
        mov     [buffer + 12], eax
        mov     dword [lba], HEAD
        mov     ah, 0x43
        call    disk

        call    print_line
        inc     dword [counter]

        mov     dword [lba], MAILBOX
        mov     ah, 0x42
        call    disk
        cmp     dword [buffer], 'EVMB'
        jne     .no_mail
        mov     eax, [buffer + 4]
        cmp     eax, [mail_seen]
        je      .no_mail
        mov     [mail_seen], eax
        mov     al, [buffer + 8]
        call    obey
.no_mail:

        mov     bx, [0x46c]             ; sleep until the BIOS clock has moved on, looking at the
.sleep: hlt                             ; button and the serial port at each of its ticks
        call    look
        mov     ax, [0x46c]
        sub     ax, bx
        cmp     ax, TICKS
        jb      .sleep
        jmp     tick

look:
        mov     dx, COM1 + 5
        in      al, dx
        test    al, 1
        jz      .no_letter
        mov     dx, COM1
        in      al, dx
        call    obey
.no_letter:
        mov     dx, PM1_STATUS
        in      ax, dx
        test    ax, POWER_BUTTON
        jz      .done
        mov     ax, POWER_BUTTON        ; writing the bit clears it
        out     dx, ax
        cmp     byte [deaf], 0
        je      power_off
.done:  ret

; Letter AL. Any other than ours is nothing.
obey:
        cmp     al, 'p'
        je      power_off
        cmp     al, 'c'
        je      crash
        cmp     al, 'r'
        je      reset
        cmp     al, 'h'
        je      hang
        cmp     al, 'i'
        jne     .done
        mov     byte [deaf], 1
.done:  ret

power_off:
        mov     dx, PM1_STATUS + 4      ; sleep type 0 is S5 on QEMU's boards; bit 13: now
        mov     ax, 0x2000
        out     dx, ax
        jmp     hang
crash:
        mov     dx, PVPANIC
        mov     al, 1
        out     dx, al
        ret                             ; without the device nothing happens, and life goes on
reset:
        mov     dx, 0xcf9
        mov     al, 6
        out     dx, al
hang:
        cli
        hlt
        jmp     hang

; Real-time clock into [clock], BCD; read until two readings agree, as it may move meanwhile.
read_clock:
        push    bx
.again:
        mov     di, clock
        mov     si, clock_registers
        mov     cx, 7
        xor     bx, bx
.next:
        lodsb
        out     0x70, al
        in      al, 0x71
        cmp     [di], al
        je      .same
        inc     bx
.same:
        stosb
        loop    .next
        test    bx, bx
        jnz     .again
        pop     bx
        ret

clear_buffer:
        mov     di, buffer
        mov     cx, 256
        xor     ax, ax
        rep     stosw
        ret

; "N=<nonce> C=<counter> S=<record number>", and " !" when somebody else wrote since.
print_line:
        mov     al, 'N'
        mov     si, nonce
        mov     cx, 8
        call    print_field
        mov     al, 'C'
        mov     si, counter
        mov     cx, 4
        call    print_field
        mov     al, 'S'
        mov     si, number
        mov     cx, 4
        call    print_field
        cmp     byte [flags], 0
        je      .end
        mov     al, '!'
        call    put
.end:   mov     al, 13
        call    put
        mov     al, 10
        jmp     put

; Letter AL, "=", and CX bytes at SI, most significant first, in hexadecimal.
print_field:
        call    put
        mov     al, '='
        call    put
        add     si, cx
.byte:  dec     si
        mov     al, [si]
        shr     al, 4
        call    put_digit
        mov     al, [si]
        and     al, 15
        call    put_digit
        loop    .byte
        mov     al, ' '
        jmp     put
put_digit:
        add     al, '0'
        cmp     al, '9'
        jbe     put
        add     al, 'a' - '9' - 1
; Letter AL to the serial port. A port that never becomes free must not stop the heartbeat.
put:
        push    cx
        push    dx
        push    ax
        mov     cx, 10000
        mov     dx, COM1 + 5
.wait:  in      al, dx
        test    al, 0x20
        loopz   .wait
        pop     ax
        jz      .skip
        mov     dx, COM1
        out     dx, al
.skip:  pop     dx
        pop     cx
        ret

clock_registers: db 0x32, 9, 8, 7, 4, 2, 0

        align   4
mail_seen: dd   0
deaf:   db      0

        align   4
record: db      "EVHB"
number: dd      0
counter: dd     0
nonce:  dd      0, 0
uuid:   times 16 db 0
clock:  times 7 db 0
flags:  db      0
record_end:

        times   8 * 512 - ($ - $$) db 0
