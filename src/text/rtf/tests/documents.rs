//! Documents as word processors write them.

use super::*;

#[test]
fn wordpad_is_converted() {
    let rtf = "{\\rtf1\\ansi\\ansicpg1252\\deff0\\nouicompat\\deflang2055{\\fonttbl{\\f0\\fnil\\fcharset0 Calibri;}{\\f1\\fnil\\fcharset2 Symbol;}}\r\n\
        {\\colortbl ;\\red0\\green0\\blue255;}\r\n\
        {\\*\\generator Riched20 10.0.19041}\\viewkind4\\uc1 \r\n\
        \\pard\\sa200\\sl276\\slmult1\\b\\f0\\fs22\\lang7 Vertraulich\\b0 : Diese E-Mail ist f\\'fcr den Empf\\'e4nger.\\par\r\n\
        \r\n\
        \\pard{\\pntext\\f1\\'B7\\tab}{\\*\\pn\\pnlvlblt\\pnf1\\pnindent0{\\pntxtb\\'B7}}\\fi-360\\li720 eins\\par\r\n\
        {\\pntext\\f1\\'B7\\tab}zwei\\par\r\n\
        \r\n\
        \\pard\\sa200 {{\\field{\\*\\fldinst{HYPERLINK http://www.example.com }}{\\fldrslt{http://www.example.com\\ul0\\cf0}}}}\\f0\\fs22\\par\r\n\
        }\r\n\0";
    assert_eq!(
        plain(rtf),
        "Vertraulich: Diese E-Mail ist für den Empfänger.\n•\teins\n•\tzwei\nhttp://www.example.com"
    );
    assert!(
        html(rtf).starts_with("<div><span style=\"font-size:11pt\"><b>Vertraulich</b></span><span")
    );
    assert!(html(rtf).contains("<a href=\"http://www.example.com\">"));
}

const WORD: &str = r#"{\rtf1\adeflang1025\ansi\ansicpg1252\uc1\adeff31507\deff0\stshfdbch31506\stshfloch31506\stshfhich31506\stshfbi31507\deflang1033\deflangfe1033\themelang1033\themelangfe0\themelangcs0{\fonttbl{\f0\fbidi \froman\fcharset0\fprq2{\*\panose 02020603050405020304}Times New Roman;}{\f3\fbidi \froman\fcharset2\fprq2{\*\panose 05050102010706020507}Symbol;}
{\f34\fbidi \froman\fcharset0\fprq2{\*\panose 02040503050406030204}Cambria Math;}{\flomajor\f31500\fbidi \froman\fcharset0\fprq2{\*\panose 02020603050405020304}Times New Roman;}{\f43\fbidi \froman\fcharset204\fprq2 Times New Roman Cyr;}}
{\colortbl;\red0\green0\blue0;\red0\green0\blue255;\red0\green255\blue255;\red5\green99\blue193;\chyperlink\ctint255\cshade255\red5\green99\blue193;}{\*\defchp \f31506\fs22 }{\*\defpap \ql \li0\ri0\sa160\sl259\slmult1
\widctlpar\wrapdefault\aspalpha\aspnum\faauto\adjustright\rin0\lin0\itap0 }\noqfpromote {\stylesheet{\ql \li0\ri0\sa160 \rtlch\fcs1 \af31507\afs22\alang1025 \ltrch\fcs0 \f31506\fs22\lang1033 \snext0 \sqformat \spriority0 Normal;}{\*\cs10 \additive
\ssemihidden \sunhideused \spriority1 Default Paragraph Font;}{\*\ts11\tsrowd\trftsWidthB3\trpaddl108\trpaddfl3 \snext11 Normal Table;}}{\*\listtable{\list\listtemplateid1{\listlevel\levelnfc23{\leveltext\leveltemplateid67698689\'01\u-3913 ?;}{\levelnumbers;}\f3\fbias0 \fi-360\li720 }{\listname ;}\listid1}}{\*\listoverridetable{\listoverride\listid1\listoverridecount0\ls1}}{\*\rsidtbl \rsid332489\rsid1}{\mmathPr\mmathFont34\mbrkBin0\mbrkBinSub0\msmallFrac0\mdispDef1}{\info{\author A. Author}{\operator A}{\creatim\yr2020\mo1\dy1\hr1\min1}{\version2}{\nofpages1}}{\*\xmlnstbl {\xmlns1 http://schemas.microsoft.com/office/word/2003/wordml}}
\paperw12240\paperh15840\margl1440\margr1440\margt1440\margb1440\gutter0\ltrsect
\widowctrl\ftnbj\aenddoc\trackmoves0\trackformatting1\donotembedsysfont1\relyonvml0\validatexml1\showplaceholdtext0\ignoremixedcontent0\saveinvalidxml0\showxmlerrors1\noxlattoyen
\expshrtn\noultrlspc\dntblnsbdb\nospaceforul\formshade\horzdoc\dgmargin\dghspace180\dgvspace180\dghorigin1440\dgvorigin1440\dghshow1\dgvshow1
\jexpand\viewkind1\viewscale100\pgbrdrhead\pgbrdrfoot\splytwnine\ftnlytwnine\htmautsp\nolnhtadjtbl\useltbaln\alntblind\lytcalctblwd\lyttblrtgr\lnbrkrule\nobrkwrptbl\snaptogridincell\allowfieldendsel\wrppunct
\asianbrkrule\rsidroot332489\newtblstyruls\nogrowautofit\usenormstyforlist\noindnmbrts\felnbrelev\nocxsptable\indrlsweleven\noafcnsttbl\afelev\utinl\hwelev\spltpgpar\notcvasp\notbrkcnstfrctbl\notvatxbx\krnprsnet\cachedcolbal \nouicompat \fet0
{\*\wgrffmtfilter 2450}\nofeaturethrottle1\ilfomacatclnup0\ltrpar \sectd \ltrsect\linex0\endnhere\sectlinegrid360\sectdefaultcl\sftnbj {\*\pnseclvl1\pnucrm\pnstart1\pnindent720\pnhang {\pntxta .}}{\*\pnseclvl2\pnucltr\pnstart1\pnindent720\pnhang {\pntxta .}}
\pard\plain \ltrpar\qc \li0\ri0\sa160\sl259\slmult1\widctlpar\wrapdefault\aspalpha\aspnum\faauto\adjustright\rin0\lin0\itap0\pararsid332489 \rtlch\fcs1 \af31507\afs22\alang1025 \ltrch\fcs0 \f31506\fs22\lang1033\langfe1033\cgrid\langnp1033\langfenp1033 {\rtlch\fcs1 \ab\af31507 \ltrch\fcs0 \b\insrsid332489\charrsid332489 \hich\af31506\dbch\af31506\loch\f31506 Disc
\hich\af31506\dbch\af31506\loch\f31506 laimer}{\rtlch\fcs1 \af31507 \ltrch\fcs0 \insrsid332489
\par }\pard \ltrpar\ql \li0\ri0\sa160\widctlpar {\rtlch\fcs1 \af31507 \ltrch\fcs0 \insrsid332489 The recipient\rquote s {\*\bkmkstart b}copy{\*\bkmkend b} \endash  see }{\field\fldedit{\*\fldinst {\rtlch\fcs1 \af31507 \ltrch\fcs0 \insrsid332489  HYPERLINK "https://www.example.com/terms" }{\rtlch\fcs1 \af31507 \ltrch\fcs0 \insrsid332489 {\*\datafield
00d0c9ea79f9bace118c8200aa004ba90b0200000003000000e0c9ea79f9bace118c8200aa004ba90b4800}}}{\fldrslt {\rtlch\fcs1 \af31507 \ltrch\fcs0 \cs15\ul\cf2\insrsid332489 our terms}}}\sectd \ltrsect\linex0\endnhere\sectlinegrid360\sectdefaultcl\sectrsid1\sftnbj {\rtlch\fcs1 \af31507 \ltrch\fcs0 \insrsid332489 .
\par {\listtext\pard\plain\ltrpar \rtlch\fcs1 \af31507\afs22 \ltrch\fcs0 \f3\fs22\insrsid332489 \loch\af3\dbch\af31506\hich\f3 \'b7\tab}}\pard \ltrpar\ql \fi-360\li720\ls1 {\rtlch\fcs1 \af31507 \ltrch\fcs0 \f43\insrsid332489 \u1046\'c6\u1091\'f3
\par }{\*\themedata 504b030414000600080000002100e9de0fbfff0000001c020000130000005b436f6e74656e745f54797065735d2e786d6c}
{\*\colorschememapping 3c3f786d6c2076657273696f6e3d22312e3022}
{\*\latentstyles\lsdstimax376\lsdlockeddef0\lsdsemihiddendef0{\lsdlockedexcept \lsdqformat1 \lsdpriority0 \lsdlocked0 Normal;\lsdqformat1 heading 1;}}{\*\datastore 01050000}}"#;

#[test]
fn word_is_converted() {
    let rtf = WORD.replace('\n', "\r\n");
    assert_eq!(
        plain(&rtf),
        "Disclaimer\nThe recipient’s copy – see our terms <https://www.example.com/terms>.\n•\tЖу"
    );
    let html = html(&rtf);
    assert!(html.starts_with(
        "<div style=\"text-align:center\"><span style=\"font-size:11pt\"><b>Disclaimer</b></span></div>\n"
    ), "{html}");
    assert!(html.contains(
        "<a href=\"https://www.example.com/terms\"><span style=\"color:#0000ff;font-size:11pt\"><u>our terms</u></span></a>"
    ), "{html}");
    assert_eq!(html.lines().count(), 3);
}

#[test]
fn libreoffice_is_converted() {
    let rtf = r#"{\rtf1\ansi\deff3\adeflang1025
{\fonttbl{\f0\froman\fprq2\fcharset0 Times New Roman;}{\f1\froman\fprq2\fcharset2 Symbol;}{\f2\fswiss\fprq2\fcharset0 Arial;}{\f3\froman\fprq2\fcharset0 Liberation Serif{\*\falt Times New Roman};}{\f4\fnil\fprq2\fcharset2 OpenSymbol{\*\falt Arial Unicode MS};}}
{\colortbl;\red0\green0\blue0;\red0\green0\blue128;}
{\stylesheet{\s0\snext0\dbch\af5\langfe2052\dbch\af6\afs24\alang1081\ql\widctlpar\hyphpar0\ltrpar\cf0\loch\f3\fs24\lang1033\kern1 Normal;}
{\*\cs15\snext15\cf2\ul\ulc0\langfe1024 Internet Link;}}{\*\listtable{\list\listtemplateid1
{\listlevel\levelnfc23\leveljc0{\leveltext \'01\u8226 ?;}{\levelnumbers;}\f4\fi-360\li720}\listid1}}{\*\generator LibreOffice/7.0.4.2$Linux_X86_64}{\info{\creatim\yr2020}{\revtim\yr2020}}{\*\userprops}\deftab709
\hyphauto1\viewscale100
{\*\pgdsctbl
{\pgdsc0\pgdscuse451\pgwsxn12240\marglsxn1134{\*\pgdscnxt Default Page Style;}}}
\formshade{\*\pgdscno0}\paperh15840\paperw12240\margl1134\sectd\sbknone\sectunlocked1\pgndec\pgwsxn12240\ftnbj\ftnstart1
{\*\ftnsep\chftnsep}\pgndec\pard\plain \s0\dbch\af5\langfe2052\ql\widctlpar\hyphpar0\ltrpar\cf0\loch\f3\fs24\lang1033{\b\dbch\af6\loch
Confidential}{\rtlch \ltrch\loch
: gr}{\rtlch \ltrch\loch\loch\f3\hich\af3
\u252\'fc\u223\'df}{\rtlch \ltrch\loch
e}
\par \pard\plain \s0{\listtext\pard\plain \loch\f4 \u8226\'95\tab}\ilvl0\ls1 \li720\fi-360{\rtlch \ltrch\loch
item }{{\field{\*\fldinst HYPERLINK "mailto:info@example.com" }{\fldrslt {\cs15\cf2\ul\ulc0\rtlch \ltrch\loch
info@example.com}}}}
\par }"#;
    assert_eq!(plain(rtf), "Confidential: grüße\n•\titem info@example.com");
    assert!(
        html(rtf).contains("<a href=\"mailto:info@example.com\">"),
        "{}",
        html(rtf)
    );
}

#[test]
fn textedit_is_converted() {
    let rtf = "{\\rtf1\\ansi\\ansicpg1252\\cocoartf1671\\cocoasubrtf600\n{\\fonttbl\\f0\\fswiss\\fcharset0 Helvetica;\\f1\\fnil\\fcharset128 HiraKakuProN-W3;}\n{\\colortbl;\\red255\\green255\\blue255;}\n{\\*\\expandedcolortbl;;}\n\\paperw11900\\paperh16840\\margl1440\\margr1440\\vieww10800\\viewh8400\\viewkind0\n\\pard\\tx566\\tx1133\\pardirnatural\\partightenfactor0\n\n\\f0\\fs24 \\cf0 Hello\\\nWorld \\uc0\\u8364 \n\\f1 \\'93\\'fa}";
    assert_eq!(plain(rtf), "Hello\nWorld €日");
}
